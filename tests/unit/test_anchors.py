"""What is chosen to be shown in place of a concept, and to be kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface import Concept, InputError, MissingExtraError, PipelineView
from efface.diffusion.anchors import wordnet
from efface.diffusion.anchors.anchors import Anchors, Candidate
from efface.diffusion.anchors.candidates import ruled_out
from efface.diffusion.anchors.encoding import ShortEncoder
from efface.diffusion.anchors.fixed import fixed_anchor
from efface.diffusion.anchors.keys import TextReaders
from efface.diffusion.anchors.readings import read
from efface.diffusion.anchors.relations import wordnet_relations
from efface.diffusion.anchors.selection import Selector, select_anchors, select_for_each
from tests.emoji_world import tiny_emoji
from tests.pipelines import BUILDERS, state, tiny

needs_wordnet = pytest.mark.skipif(not wordnet.DEBIAN.is_dir(), reason="needs Debian's wordnet-base")
ANIMALS = ["dog", "lion", "tiger", "wolf", "horse", "rabbit"]
ANY: dict[str, Any] = {"sibling": -1, "exclusive": 1}


@pytest.fixture(scope="module")
def view() -> PipelineView:
    return PipelineView.of(tiny_emoji())


def roles(anchors: Anchors) -> dict[str, Candidate]:
    return {each.word: each for each in anchors.table}


class TestChoice:
    def test_of_words_and_the_table_says_why(self, view: PipelineView) -> None:
        concept = Concept("cat", synonyms=["kitten"], preserve=["lion"])
        found = select_anchors(view, concept, [*ANIMALS, "kitten", "tuesday"])
        table = roles(found)
        assert found.anchor in {"dog", "tiger", "wolf"} and len(found.boundary) == 4
        assert table["kitten"].why == "says 'kitten', which is erased"
        assert table["lion"].why == "is preserved"
        assert table["tuesday"].role == "dropped" and table["tuesday"].why.startswith("no sibling")
        assert table["tuesday"].score is None and table["tuesday"].sibling is not None
        assert [each.role for each in found.table[:2]] == ["anchor", "boundary"]
        assert table[found.anchor].score == max(each.score or 0 for each in found.table)
        text = str(found)
        assert text.startswith(f"cat -> {found.anchor!r}; boundary: ") and "no sibling" in text and "ours" in text
        assert {row["word"] for row in found.rows} == set(table) and set(found.rows[0]) >= {"score", "why", "role"}

    def test_it_fills_the_concept_that_it_was_made_for(self, view: PipelineView) -> None:
        concept = Concept("cat", preserve=["car"], templates=["{} here", "a {}"])
        found = select_anchors(view, concept, ANIMALS, boundary=2)
        filled = found.fill(concept)
        assert filled.anchor == found.anchor and filled.preserve == ("car", *found.boundary)
        assert filled.templates == concept.templates
        assert found.fill(found.fill(concept)) == filled
        with pytest.raises(InputError, match="chosen for 'cat', not for 'dog'"):
            found.fill("dog")

    @settings(max_examples=3)
    @given(order=st.permutations(ANIMALS), short=st.sampled_from([3, 32]))
    def test_the_order_of_candidates_does_not_matter(self, order: list[str], short: int) -> None:
        view = PipelineView.of(tiny_emoji())
        known, found = (select_anchors(view, "cat", words, shortlist=short) for words in (ANIMALS, order))
        assert (known.anchor, known.boundary) == (found.anchor, found.boundary)
        assert [each.word for each in known.table] == [each.word for each in found.table]

    @settings(max_examples=5)
    @given(words=st.lists(st.sampled_from([*ANIMALS, "cat", "cats", "kitten", "car", "tree"]), min_size=1, unique=True))
    def test_what_is_erased_or_preserved_is_never_chosen(self, words: list[str]) -> None:
        concept = Concept("cat", synonyms=["kitten"], preserve=["tiger"])
        view = PipelineView.of(tiny_emoji())
        if not set(words) - {"cat", "cats", "kitten", "tiger"}:
            with pytest.raises(InputError, match="no candidate for an anchor of 'cat' is left"):
                select_anchors(view, concept, words, **ANY)
            return
        found = select_anchors(view, concept, words, **ANY)
        assert not {found.anchor, *found.boundary} & {"cat", "cats", "kitten", "tiger"}
        assert found.anchor not in found.boundary and set(found.boundary) <= set(words)
        found.fill(concept)

    def test_one_candidate_is_the_anchor_and_the_boundary_is_empty(self, view: PipelineView) -> None:
        every: tuple[Any, ...] = (["dog"], np.array(["dog"]), pd.Series(["dog"]))
        for words in every:
            found = select_anchors(view, "cat", words)
            assert (found.anchor, found.boundary) == ("dog", ())

    def test_none_left_says_which_filter_dropped_what(self, view: PipelineView) -> None:
        with pytest.raises(InputError, match=r"'cats' \(says 'cat', which is erased\)") as said:
            select_anchors(view, "cat", ["tuesday", "cats"])
        assert "'tuesday' (no sibling: " in str(said.value) and "loosen sibling=" in str(said.value)

    def test_equals_go_to_the_first_in_the_alphabet(self, view: PipelineView) -> None:
        # The tokenizer takes no notice of accents and case, so that both are the same to the text encoder.
        found = select_anchors(view, "cat", ["Wolf", "wölf"], **ANY)
        table = roles(found)
        assert table["Wolf"].score == table["wölf"].score and found.anchor == "Wolf"

    def test_a_word_is_one_candidate_whatever_its_case(self, view: PipelineView) -> None:
        found = select_anchors(view, "cat", ["dog", "DOG ", "Dog"], **ANY)
        assert [each.word for each in found.table] == ["DOG"] and found.boundary == ()

    def test_several_concepts_keep_off_one_another(self, view: PipelineView) -> None:
        each = select_for_each(view, ["cat", "dog"], ANIMALS)
        assert [found.concept for found in each] == ["cat", "dog"]
        assert not any("dog" in {found.anchor, *found.boundary} for found in each)
        Concept.each([found.fill(found.concept) for found in each])

    def test_the_vocabulary_has_words_too(self, view: PipelineView) -> None:
        found = select_anchors(view, "cat", "vocabulary")
        assert "dog" in roles(found) and "cats" in roles(found) and roles(found)["cats"].role == "dropped"

    def test_a_known_parent_draws_the_family(self, view: PipelineView) -> None:
        free, drawn = (select_anchors(view, "cat", ANIMALS, parent=parent) for parent in (None, "pet"))
        assert (roles(drawn)["dog"].sibling or 0) - (roles(drawn)["wolf"].sibling or 0) > (
            (roles(free)["dog"].sibling or 0) - (roles(free)["wolf"].sibling or 0)
        )


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"candidates": []}, "candidates is empty"),
            ({"candidates": ["dog", " "]}, "empty string"),
            ({"candidates": "words"}, "candidates is 'words'"),
            ({"candidates": ["dog"], "parent": "Cat"}, "the parent 'Cat' is what is to be erased"),
            ({"candidates": ["pet"], "parent": "pet"}, r"'pet' \(what cat is a kind of\)"),
            ({"candidates": ["dog"], "synset": "cat.n.01"}, "goes with candidates='wordnet'"),
            ({"candidates": ["dog"], "boundary": -1}, "boundary"),
            ({"candidates": ["dog"], "nearest": 3}, "nearest"),
        ],
    )
    def test_say_what_to_write(self, view: PipelineView, given: dict[str, Any], said: str) -> None:
        with pytest.raises(InputError, match=said):
            select_anchors(view, "cat", **given)

    def test_words_that_the_text_encoder_does_not_know(self) -> None:
        sd3 = tiny("sd3")  # its T5 knows few words
        found = select_anchors(sd3, "circle", ["square", "xylophone"], **ANY)
        assert found.anchor == "square" and roles(found)["xylophone"].why == "unknown to the tokenizer"
        with pytest.raises(InputError, match="does not know the parent 'shape'"):
            select_anchors(sd3, "circle", ["square"], parent="shape")
        with pytest.raises(InputError, match="does not know 'xylophone'"):
            select_anchors(sd3, "xylophone", ["square"])


class TestWordNet:
    @needs_wordnet
    def test_relations_of_words_by_their_nearest_meaning(self) -> None:
        words = ["cat", "true cat", "feline", "house cat", "lion", "wolf", "kitten", "oak", "zzyzx"]
        found = wordnet_relations("cat", words)
        assert found == dict(zip(words, [
            "target", "alias", "superclass", "subclass", "sibling", "neighbour", "unrelated", "unrelated", "unrelated",
        ], strict=True))  # fmt: skip
        assert wordnet_relations("mouse", ["rat", "keyboard"], synset="mouse.n.01")["rat"] == "sibling"
        with pytest.raises(InputError, match="WordNet does not know 'zzyzx'"):
            wordnet_relations("zzyzx", words)
        with pytest.raises(InputError, match="is no synset of WordNet"):
            wordnet_relations("cat", words, synset="cat.n.99")

    @needs_wordnet
    def test_sister_terms_without_kinds_parents_and_synonyms(self, view: PipelineView) -> None:
        found = select_anchors(view, "cat", synset="cat.n.01")
        assert found.anchor == "dog" and found.sense.startswith("cat.n.01: feline mammal")
        table = roles(found)
        assert {"lion", "tiger"} <= set(found.boundary)  # kinds of big cat, which is beside cat
        assert table["big cat"].why == "says 'cat', which is erased"
        assert table["viverrine"].why.startswith("the name of a family")
        assert table["wild dog"].why == "a kind of dog by its name"
        assert not {"tabby", "feline", "true cat"} & {found.anchor, *found.boundary}

    @needs_wordnet
    def test_words_come_in_one_order_in_every_process(self) -> None:
        """Relations are sets to nltk, whose order goes with the process's hash seed."""
        plane_figure = next(each for each in wordnet.meanings("star") if each.name == "star.n.05")
        assert plane_figure.shown == ("plane figure", "conic section", "ellipsoid", "heart", "oblong")

    @needs_wordnet
    def test_the_text_encoder_says_which_meaning(self, view: PipelineView) -> None:
        assert select_anchors(view, "crane").sense.startswith("crane.n.04: lifts and moves heavy objects")
        bird = Concept("crane", preserve=["heron", "flamingo"])
        assert select_anchors(view, bird).sense.startswith("crane.n.05: large long-necked wading bird")

    @needs_wordnet
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"concept": "cat", "synset": "cat.n.99"}, "those of 'cat' are cat.n.01, guy.n.01"),
            ({"concept": "zzyzx"}, "WordNet does not know the noun 'zzyzx'"),
            ({"concept": "cat", "wordnet": "/nowhere"}, "no WordNet in '/nowhere'"),
            ({"concept": "entity"}, "nothing beside entity.n.01"),
        ],
    )
    def test_refusals(self, view: PipelineView, given: dict[str, Any], said: str) -> None:
        with pytest.raises(InputError, match=said):
            select_anchors(view, **given)

    def test_without_one_both_packages_are_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("WNSEARCHDIR", "WNHOME"):
            monkeypatch.setenv(name, str(tmp_path))
        monkeypatch.setattr(wordnet, "DEBIAN", tmp_path)
        monkeypatch.setattr(wordnet, "_places_of_nltk", list)
        with pytest.raises(MissingExtraError, match=r"wordnet-base, with pip install 'efface\[anchors\]'"):
            wordnet.find_folder()


class TestFixed:
    def test_need_no_scores(self, view: PipelineView) -> None:
        assert fixed_anchor(view, "cat", "empty").fill("cat").anchor == ""
        with pytest.raises(InputError, match="kind is 'Empty': write one of .*did you mean 'empty'"):
            fixed_anchor(view, "cat", "Empty", ANIMALS)  # type: ignore[arg-type]
        assert fixed_anchor(view, "cat", "space").anchor == " "
        assert fixed_anchor(view, "cat", "parent", parent="animal").anchor == "animal"
        chosen = {fixed_anchor(view, "cat", "random-sibling", [*ANIMALS, "cats"], seed=i).anchor for i in range(9)}
        assert len(chosen) > 1 and chosen <= set(ANIMALS)
        with pytest.raises(InputError, match="nobody says what 'cat' is a kind of"):
            fixed_anchor(view, "cat", "parent", ANIMALS)
        with pytest.raises(InputError, match="no sibling of 'cat' is left"):
            fixed_anchor(view, "cat", "random-sibling", ["cats"])

    @needs_wordnet
    def test_the_parent_is_wordnets(self, view: PipelineView) -> None:
        assert fixed_anchor(view, "cat", "parent", synset="cat.n.01").anchor == "feline"


class TestPipelines:
    @pytest.mark.parametrize("name", BUILDERS)
    def test_every_kind_is_read_and_left_as_it_was(self, name: str) -> None:
        pipe = tiny(name)
        PipelineView.of(pipe).encode("a circle")  # transformers marks its layers at the first call
        before = state(pipe)
        found = select_anchors(pipe, "circle", ["square", "star", "ring", "red"], **ANY)
        assert found.anchor in ("square", "star", "ring", "red") and len(found.boundary) == 3
        assert state(pipe) == before

    @pytest.mark.parametrize(("name", "short"), [("sd1", True), ("sdxl", True), ("sd3", False), ("flux", False)])
    def test_short_windows_only_where_they_give_the_same_rows(self, name: str, short: bool) -> None:
        encoder = ShortEncoder(PipelineView.of(tiny(name)))
        texts, lengths = ["a circle", "a photo of a red star", "ring"], [9, 9, 9]
        found = encoder(texts, lengths)
        assert encoder.short is short
        whole = encoder.view.encode(texts)
        rows = found.sequence.shape[1]
        assert torch.allclose(found.sequence, whole.sequence[:, :rows], atol=1e-4)
        if whole.pooled is not None:
            assert torch.allclose(found.pooled, whole.pooled, atol=1e-4)  # type: ignore[arg-type]

    def test_the_layers_that_first_read_text(self) -> None:
        readers = {name: TextReaders(PipelineView.of(tiny(name))) for name in ("sd1", "flux")}
        assert all(path.endswith((".to_k", ".to_v")) for path in readers["sd1"].layers)
        assert list(readers["flux"].layers) == ["transformer.context_embedder"]

    def test_likeness_is_the_cosine_of_keys_and_values(self) -> None:
        readers = TextReaders(PipelineView.of(tiny("sd1")))
        x, target, middle = torch.randn(3, 2, 32), torch.randn(2, 32), torch.randn(2, 32)
        naive = torch.zeros(3)
        for layer in readers.layers.values():
            weight: Any = layer.weight
            for i in range(3):
                for r in range(2):
                    a, b = weight @ (x[i, r] - middle[r]), weight @ (target[r] - middle[r])
                    naive[i] += a @ b / (a.norm() * b.norm()) / 2 / len(readers.layers)
        assert torch.allclose(readers.likeness(x, target, middle), naive, atol=1e-5)


class TestReadings:
    def test_a_causal_text_encoder_is_read_behind_the_word(self) -> None:
        encoder = ShortEncoder(PipelineView.of(tiny("sd1")))
        found = read(encoder, ["circle", "star"], ["a {}", "a {} and red"])
        whole = encoder.view.encode(["a circle and red", "a star and red"]).sequence
        rows = encoder.view.token_rows("a circle and red", "circle")["text_encoder"].rows
        end = encoder.view.tokens("a circle and red")["text_encoder"].eos
        assert torch.allclose(found.own[0, 1], whole[0, list(rows)].mean(0), atol=1e-5)
        assert torch.allclose(found.summary[0, 1], whole[0, end], atol=1e-5)
        assert found.around[0].shape[:2] == (2, 2) and found.around[1].shape[:2] == (2, 4)

    def test_words_as_words_say_it(self, view: PipelineView) -> None:
        selector = Selector.of(view, {})
        concept = Concept("hot dog", synonyms=["cherry"])
        words = ["hotdog", "Hot-Dogs", "hot", "dog", "cherries", "chilli hot dog"]
        out = ruled_out(selector.pool(concept, words, None, None, None), concept, concept.words, selector.vocabulary, 2)
        assert set(out) == {"hotdog", "Hot-Dogs", "cherries", "chilli hot dog"}
