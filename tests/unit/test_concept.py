"""What can be said of a concept, and what is refused."""

import dataclasses
import json

import pytest

from efface import Concept, InputError
from efface.pipelines import PipelineView
from tests.pipelines import tiny

FULL = Concept(
    "circle",
    synonyms=("ring", "round thing"),
    anchor="square",
    preserve=["star", "red"],
    templates=["{}", "a photo of {}"],
    neutral="a photo",
)


def test_json_there_and_back():
    assert Concept.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL
    assert Concept.from_dict({"name": "circle"}) == Concept("circle") == Concept.of("circle")


def test_of_takes_words_specs_and_data():
    assert Concept.of(FULL) is FULL
    assert Concept.of(FULL, anchor=None) == dataclasses.replace(FULL, anchor=None)
    assert Concept.of({"name": "circle"}, preserve=["red"]) == Concept("circle", preserve=("red",))


def test_prompts_are_every_template_with_every_word():
    assert FULL.prompts() == (
        "circle",
        "ring",
        "round thing",
        "a photo of circle",
        "a photo of ring",
        "a photo of round thing",
    )
    assert FULL.prompts("star") == ("star", "a photo of star")
    assert FULL.words == ("circle", "ring", "round thing")


def test_it_is_a_value():
    assert hash(FULL) == hash(Concept.from_dict(FULL.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.name = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, "name has an empty string"),
        ({"name": "  "}, "name has an empty string"),
        ({"name": 3}, "name must be a string, not int"),
        ({"name": "circle", "synonyms": "ring"}, r"write a list, synonyms=\['ring'\]"),
        ({"name": "circle", "synonyms": ["ring", ""]}, "synonyms has an empty string"),
        ({"name": "circle", "synonyms": ["Circle "]}, "'Circle ' is given twice in name and synonyms"),
        ({"name": "circle", "preserve": ["red", "red"]}, "'red' is given twice in preserve"),
        ({"name": "circle", "preserve": ["CIRCLE"]}, "'CIRCLE' is to be erased and preserved"),
        ({"name": "circle", "synonyms": ["ring"], "preserve": ["ring"]}, "'ring' is to be erased and preserved"),
        ({"name": "circle", "anchor": "circle"}, "the anchor 'circle' is what is to be erased"),
        ({"name": "cir\ud800cle"}, "half of a sign"),
        ({"name": "circle", "anchor": 1}, "anchor must be a string or None"),
        ({"name": "circle", "preserve": 5}, "preserve must be a list of strings, not int"),
        ({"name": "circle", "templates": []}, "templates is empty"),
        ({"name": "circle", "templates": ["a photo"]}, "must have {} once"),
        ({"name": "circle", "templates": ["{} and {}"]}, "must have {} once"),
        ({"name": "circle", "erase_from": 1}, "erase_from must be a string or None"),
        ({"name": "circle", "neutral": None}, "neutral must be a string"),
        ({"name": "circle", "colour": "red"}, "a concept has no field 'colour'"),
        ({"synonyms": ["ring"]}, "a concept needs a name"),
    ],
)
def test_what_is_refused(fields, text):
    with pytest.raises(InputError, match=text):
        Concept.from_dict(fields)


def test_a_pipeline_checks_words_and_lengths():
    clip, both = PipelineView.of(tiny("sd1")), PipelineView.of(tiny("flux"))
    clip.check_concept(FULL)  # byte-level: every word is known
    with pytest.raises(InputError, match="tokenizer_2 does not know 'round', 'thing' of synonyms 'round thing'"):
        both.check_concept(FULL)
    both.check_concept(Concept("circle", anchor="square"))
    with pytest.raises(InputError, match="tokenizer_2 does not know 'zebra' of preserve"):
        both.check_concept(Concept("circle", preserve=["zebra"]))
    long = "red " * 74 + "circle"
    with pytest.raises(InputError, match=r"makes the prompt 'red .* 78 tokens long, text_encoder reads 77"):
        clip.check_concept(Concept(long))
    with pytest.raises(InputError, match=r"makes the prompt 'a photo of red .* 79 tokens long"):
        clip.check_concept(Concept("red " * 72 + "circle"))
