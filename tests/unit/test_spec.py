"""What can be said of a concept, and what is refused."""

import dataclasses
import json

import pytest

from efface import InputError
from efface.diffusion import ErasureSpec
from efface.pipelines import PipelineView
from tests.pipelines import tiny

FULL = ErasureSpec(
    "circle",
    synonyms=("ring", "round thing"),
    anchor="square",
    preserve=["star", "red"],
    templates=["{}", "a photo of {}"],
    key_span="all",
    neutral="a photo",
)


def test_json_there_and_back():
    assert ErasureSpec.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL
    assert ErasureSpec.from_dict({"target": "circle"}) == ErasureSpec("circle") == ErasureSpec.of("circle")


def test_of_takes_words_specs_and_data():
    assert ErasureSpec.of(FULL) is FULL
    assert ErasureSpec.of(FULL, anchor=None) == dataclasses.replace(FULL, anchor=None)
    assert ErasureSpec.of({"target": "circle"}, preserve=["red"]) == ErasureSpec("circle", preserve=("red",))


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
    assert FULL.concepts == ("circle", "ring", "round thing")


def test_it_is_a_value():
    assert hash(FULL) == hash(ErasureSpec.from_dict(FULL.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.target = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"target": ""}, "target has an empty concept"),
        ({"target": "  "}, "target has an empty concept"),
        ({"target": 3}, "target must be a string, not int"),
        ({"target": "circle", "synonyms": "ring"}, r"write synonyms=\['ring'\]"),
        ({"target": "circle", "synonyms": ["ring", ""]}, "synonyms has an empty concept"),
        ({"target": "circle", "synonyms": ["Circle "]}, "'Circle ' is given twice in target and synonyms"),
        ({"target": "circle", "preserve": ["red", "red"]}, "'red' is given twice in preserve"),
        ({"target": "circle", "preserve": ["CIRCLE"]}, "'CIRCLE' is to be erased and preserved"),
        ({"target": "circle", "synonyms": ["ring"], "preserve": ["ring"]}, "'ring' is to be erased and preserved"),
        ({"target": "circle", "anchor": "circle"}, "the anchor 'circle' is what is to be erased"),
        ({"target": "circle", "anchor": 1}, "anchor must be a string or None"),
        ({"target": "circle", "preserve": 5}, "preserve must be a list of strings, not int"),
        ({"target": "circle", "templates": []}, "templates is empty"),
        ({"target": "circle", "templates": ["a photo"]}, "must have {} once"),
        ({"target": "circle", "templates": ["{} and {}"]}, "must have {} once"),
        ({"target": "circle", "key_span": "middle"}, "choose one of last, last_to_end, all"),
        ({"target": "circle", "neutral": None}, "neutral must be a string"),
        ({"target": "circle", "colour": "red"}, "a spec has no field 'colour'"),
        ({"synonyms": ["ring"]}, "a spec needs a target"),
    ],
)
def test_what_is_refused(fields, text):
    with pytest.raises(InputError, match=text):
        ErasureSpec.from_dict(fields)


def test_a_pipeline_checks_words_and_lengths():
    clip, both = PipelineView.of(tiny("sd1")), PipelineView.of(tiny("flux"))
    FULL.check(clip)  # byte-level: every word is known
    with pytest.raises(InputError, match="tokenizer_2 does not know 'round', 'thing' of synonyms 'round thing'"):
        FULL.check(both)
    ErasureSpec("circle", anchor="square").check(both)
    with pytest.raises(InputError, match="tokenizer_2 does not know 'zebra' of preserve"):
        ErasureSpec("circle", preserve=["zebra"]).check(both)
    long = "red " * 74 + "circle"
    with pytest.raises(InputError, match=r"makes the prompt 'red .* 78 tokens long, text_encoder reads 77"):
        ErasureSpec(long).check(clip)
    with pytest.raises(InputError, match=r"makes the prompt 'a photo of red .* 79 tokens long"):
        ErasureSpec("red " * 72 + "circle").check(clip)
