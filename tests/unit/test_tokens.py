"""The token world: exact lexical types, a vocabulary that respects them, training that resumes, bits per byte."""

from __future__ import annotations

import dataclasses
import io
import itertools
import keyword
import math
import os
import sys
import token as token_types
import tokenize
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from efface import InputError
from efface.audit import bootstrap_interval
from efface.core.checkpoint import Checkpoint
from efface_worlds.tokens import (
    IGNORE,
    LEXICAL_TYPES,
    SourceFile,
    TokenWorld,
    lexical_types,
    load_token_model,
    load_token_tokenizer,
    make_tokens,
    next_token_nats,
    read_library,
    training,
    unigram_bits_per_byte,
    unigram_nats,
)
from efface_worlds.tokens.shipped import WEIGHTS
from efface_worlds.tokens.vocabulary import END, encode, load_vocabulary, train_vocabulary

LOOKS_INTO_F_STRINGS = sys.version_info >= (3, 12)
_WORDS = ["a", "self", "if", "else", "in", "12", "3.5e-7", "0b1", "'it'", 'b"x  y"', '"""a\n  b"""', "#"]
_SIGNS = ["+", "**", "->", ":=", "...", ",", ".", "(", ")", "[", "]", "{", "}", "=", "@"]
PIECES = [*_WORDS, *_SIGNS, " ", "  ", "\n", "\n    ", "\t", "\\\n"]
"""What odd programs are put together from."""


@pytest.fixture(scope="module")
def library() -> list[SourceFile]:
    return list(read_library("heldout"))


@pytest.fixture(scope="module")
def tokenizer(library: list[SourceFile]) -> Any:
    return train_vocabulary((file.text for file in library), 600)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, library: list[SourceFile]) -> Path:
    """A library of a few files, so that reading it costs nothing."""
    root = tmp_path_factory.mktemp("library")
    for file in sorted(library, key=lambda f: len(f.text))[10:22]:
        path = root / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    return root


def runs(source: str) -> list[tuple[str, str]]:
    """(type, text) of each run of characters of one type."""
    types = lexical_types(source)
    groups = itertools.groupby(range(len(source)), key=lambda i: LEXICAL_TYPES[types[i]])
    return [(name, "".join(source[i] for i in places)) for name, places in groups]


def reference_types(source: str) -> list[str]:
    """By searching each token's text from where the one before it ended, instead of by rows and columns."""
    out, at = ["space"] * len(source), 0
    for tok in tokenize.generate_tokens(io.StringIO(source).readline):
        name = token_types.tok_name[tok.type]
        if not tok.string or name in ("INDENT", "DEDENT", "ERRORTOKEN"):
            continue
        start = source.index(tok.string, at)
        at = start + len(tok.string)
        out[start:at] = [_reference_type(name, tok.string)] * len(tok.string)
    for start in [0, *(i + 1 for i, char in enumerate(source) if char == "\n")]:
        while start < len(source) and out[start] == "space" and source[start] in " \t\f":
            out[start] = "indentation"
            start += 1
    return out


def _reference_type(name: str, text: str) -> str:
    if name == "OP":
        if text in ("(", ")", "[", "]", "{", "}"):
            return "bracket"
        return "delimiter" if text in (",", ":", ".", ";", "@", "=", "->", ":=", "...") else "operator"
    if name == "NAME":
        return "keyword" if text in keyword.kwlist else "name"
    plain = {"NL": "blank line", "NEWLINE": "newline", "NUMBER": "number", "COMMENT": "comment"}
    return plain.get(name, "string")


class TestLexicalTypes:
    def test_a_statement(self) -> None:
        assert runs("if x1 >= 2.5:  # why\n\treturn [None]\n") == [
            ("keyword", "if"),
            ("space", " "),
            ("name", "x1"),
            ("space", " "),
            ("operator", ">="),
            ("space", " "),
            ("number", "2.5"),
            ("delimiter", ":"),
            ("space", "  "),
            ("comment", "# why"),
            ("newline", "\n"),
            ("indentation", "\t"),
            ("keyword", "return"),
            ("space", " "),
            ("bracket", "["),
            ("keyword", "None"),
            ("bracket", "]"),
            ("newline", "\n"),
        ]

    def test_line_ends_inside_brackets_and_of_empty_lines_are_blank(self) -> None:
        found = runs("f(\n  a)\n\n")
        assert [kind for kind, text in found if text == "\n"] == ["blank line", "newline", "blank line"]
        assert ("indentation", "  ") in found

    def test_a_string_of_several_lines_has_no_indentation(self) -> None:
        assert runs('x = """a\n    b\n"""\n')[4:] == [("string", '"""a\n    b\n"""'), ("newline", "\n")]

    def test_f_strings_are_as_the_running_python_sees_them(self) -> None:
        code = [("bracket", "{"), ("name", "x"), ("operator", "!"), ("name", "r"), ("bracket", "}")]
        looked_into = [("string", "f'a"), *code, ("string", "b'")]
        assert runs("f'a{x!r}b'") == (looked_into if LOOKS_INTO_F_STRINGS else [("string", "f'a{x!r}b'")])

    def test_doubled_braces_of_an_f_string_are_text(self) -> None:
        found = runs("f'é{{}} {x:>{w}}{{{y}}}ü'")
        assert "".join(text for kind, text in found if kind == "space") == ""
        if LOOKS_INTO_F_STRINGS:
            assert found[0] == ("string", "f'é{{}} ") and found[-1] == ("string", "}}ü'")
            assert ("string", "{{") in found and ("name", "y") in found

    def test_windows_line_ends(self) -> None:
        types = [LEXICAL_TYPES[t] for t in lexical_types("x = 1\r\n\r\ny\r\n")]
        unix = [LEXICAL_TYPES[t] for t in lexical_types("x = 1\n\ny\n")]
        assert [types[i] for i, char in enumerate("x = 1\r\n\r\ny\r\n") if char != "\r"] == unix

    def test_names_of_other_scripts(self) -> None:
        assert runs("größe=π") == [("name", "größe"), ("delimiter", "="), ("name", "π")]

    def test_no_line_end_at_the_end(self) -> None:
        assert runs("x # c") == [("name", "x"), ("space", " "), ("comment", "# c")]
        assert runs("") == [] and runs("x") == [("name", "x")]

    def test_a_line_that_goes_on(self) -> None:
        assert runs("x = \\\n  y")[3:] == [("space", " \\\n"), ("indentation", "  "), ("name", "y")]

    @pytest.mark.parametrize("bad", ["f(", "'''abc", "if x:\n    a\n  b\n"])
    def test_what_is_no_python_is_refused(self, bad: str) -> None:
        with pytest.raises(InputError, match="not source that Python"):
            lexical_types(bad)

    def test_agrees_with_a_search_for_each_token(self, library: list[SourceFile]) -> None:
        for file in library[::4]:
            assert [LEXICAL_TYPES[t] for t in file.types] == reference_types(file.text), file.name


class TestLibrary:
    def test_splits_are_of_whole_modules(self, tmp_path: Path) -> None:
        modules = [f"m{i}" for i in range(60)]
        for name in modules:
            for path in (f"{name}.py", f"test/test_{name}.py", f"{name}_pkg/a.py", f"{name}_pkg/tests/b.py"):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text("x = 1\n")
        names = {split: {f.name for f in read_library(split, folder=tmp_path)} for split in ("train", "heldout")}
        tops = {split: {n.split("/")[0].removesuffix(".py") for n in found} for split, found in names.items()}
        assert tops["train"] & tops["heldout"] == set() and 5 < len(names["heldout"]) < 50
        held = {name for name in modules if f"{name}.py" in names["heldout"]}
        assert held and not any("test" in name for name in names["heldout"])
        # neither the module nor its tests
        assert not any(n in (f"{m}.py", f"test/test_{m}.py") for m in held for n in names["train"])
        assert {f"test/test_{m}.py" for m in set(modules) - held} <= names["train"]

    def test_files_of_one_kind(self, tmp_path: Path) -> None:
        for name in ("a.py", "b.py", "test/test_c.py", "d/tests/e.py"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x = 1\n")
        both, library, tests = (
            {f.name for split in ("train", "heldout") for f in read_library(split, kind=kind, folder=tmp_path)}
            for kind in (None, "library", "tests")
        )
        assert both == library | tests and all("test" in name for name in tests)
        assert library and not any("test" in name for name in library)
        with pytest.raises(InputError, match="kind="):
            next(read_library("train", kind="module", folder=tmp_path))  # pyright: ignore[reportArgumentType]

    def test_a_draw_of_files(self, house: Path) -> None:
        everything = [f.name for f in read_library("heldout", folder=house)]
        few = [[f.name for f in read_library("heldout", folder=house, max_files=3, seed=s)] for s in (0, 0, 1)]
        assert few[0] == few[1] != few[2] and all(len(names) == 3 and names == sorted(names) for names in few)
        assert set(few[0]) <= set(everything)
        assert [f.name for f in read_library("heldout", folder=house, max_files=99)] == everything

    def test_what_cannot_be_read_is_left_out(self, tmp_path: Path) -> None:
        texts = {"m1.py": b"x = 1\n", "m3.py": b"f(\n", "m4.py": b"# caf\xe9\n"}
        for name, text in texts.items():
            (tmp_path / name).write_bytes(text)
        found = [f.name for split in ("train", "heldout") for f in read_library(split, folder=tmp_path)]
        assert found == ["m1.py"]

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match='write "train" or "heldout"'):
            next(read_library("test"))  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match="holds no Python source"):
            next(read_library("train", folder=tmp_path))


class TestVocabulary:
    @staticmethod
    def crossing(tokenizer: Any, text: str, types: np.ndarray) -> list[str]:
        """Tokens that hold two lexical types, a space at the beginning aside."""
        found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        spaced = [(a + 1 if text[a] == " " and text[a:b].strip(" ") else a, b) for a, b in found]
        return [text[a:b] for a, b in spaced if len(set(types[a:b].tolist())) > 1]

    @given(data=st.data())
    def test_no_token_of_the_library_crosses_a_boundary(
        self, data: st.DataObject, library: list[SourceFile], tokenizer: Any
    ) -> None:
        file = data.draw(st.sampled_from([f for f in library if f.text]))
        start = data.draw(st.integers(0, len(file.text) - 1))
        rows = slice(start, start + data.draw(st.integers(1, 500)))
        assert self.crossing(tokenizer, file.text[rows], file.types[rows]) == []

    @given(pieces=st.lists(st.sampled_from(PIECES), max_size=30))
    def test_nor_does_one_of_odd_programs(self, tokenizer: Any, pieces: list[str]) -> None:
        source = "".join(pieces)
        try:
            types = lexical_types(source)
        except InputError:
            reject()
        assert self.crossing(tokenizer, source, types) == []

    @given(st.text(max_size=40))
    def test_tokens_stand_for_every_byte(self, tokenizer: Any, text: str) -> None:
        ids, types, n_bytes = encode(tokenizer, [text], [np.zeros(len(text), dtype=np.int8)])[0]
        assert n_bytes.sum() == len(text.encode()) and (n_bytes >= 1).all()
        assert len(ids) == len(types) == len(n_bytes)

    def test_a_token_has_the_type_of_its_characters(self, tokenizer: Any) -> None:
        source = "x = 'é日'  # 日\n"
        ids, types, n_bytes = encode(tokenizer, [source], [lexical_types(source)])[0]
        by_type = {name: int(n_bytes[types == index].sum()) for index, name in enumerate(LEXICAL_TYPES)}
        # the space before `=` and before the quote goes with them; of the two before `#`, the run is a token
        assert {k: v for k, v in by_type.items() if v} == {
            "name": 1,
            "delimiter": 2,
            "string": 8,
            "space": 2,
            "comment": 5,
            "newline": 1,
        }
        assert tokenizer.decode(ids.tolist()) == source

    def test_reloaded_it_is_the_same(self, tokenizer: Any, library: list[SourceFile], tmp_path: Path) -> None:
        tokenizer.save_pretrained(tmp_path)
        again = load_vocabulary(tmp_path / "tokenizer.json")
        text = library[3].text
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert (again.eos_token, again.eos_token_id, len(again)) == (END, 0, 600)


RECIPE = training.Recipe(vocab_size=300, hidden_size=64, layers=1, length=16, batch=2, tokens=45 * 32, warmup=5)


class Trainer:
    """Trains a tiny model on a few files; what would be shipped is kept here in float32."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: list[SourceFile]) -> None:
        self.patch, self.files = monkeypatch, files

    def __call__(self, folder: Path, recipe: training.Recipe = RECIPE) -> tuple[dict[str, Tensor], list[Any]]:
        kept: list[Any] = []
        with self.patch.context() as patch:
            patch.setattr(training, "_ship", lambda model, *rest: kept.extend([model.state_dict(), rest[3]]))
            training.train(recipe, folder, checkpoint_every=15, files=self.files)
        return kept[0], kept[1]

    def interrupted(self, folder: Path, where: str, call: int) -> None:
        """Train until the `call`-th call of `where` (counted from 1), which fails before it does anything."""
        calls = 0
        owner, _, name = where.rpartition(".")
        target: Any = {"training": training, "os": os, "Checkpoint": Checkpoint}[owner]
        original: Callable[..., Any] = getattr(target, name)

        def failing(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return original(*args, **options)

        with self.patch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(target, name, failing)
            self(folder)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, house: Path) -> Trainer:
    return Trainer(monkeypatch, list(read_library("heldout", folder=house)))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestTraining:
    # 38: in the middle of a stretch between two checkpoints; 7: before the first
    @pytest.mark.parametrize(("where", "call"), [("training._loss", 38), ("training._loss", 7)])
    def test_interrupted_and_resumed_it_ends_at_the_same_bits(
        self, trainer: Trainer, tmp_path: Path, where: str, call: int
    ) -> None:
        weights, curve = trainer(tmp_path / "a")
        trainer.interrupted(tmp_path / "b", where, call)
        weights_b, curve_b = trainer(tmp_path / "b")
        assert same(weights, weights_b) and curve == curve_b and [c["step"] for c in curve] == [20, 40]
        assert not (tmp_path / "b" / "checkpoint").exists()

    @pytest.mark.parametrize("call", [3, 4, 5, 6, 7])
    def test_killed_while_a_checkpoint_is_written(self, trainer: Trainer, tmp_path: Path, call: int) -> None:
        weights, curve = trainer(tmp_path / "a")
        # files are moved into place by os.replace: the first claim, then three times a checkpoint
        trainer.interrupted(tmp_path / "b", "os.replace", call)
        (tmp_path / "b" / "checkpoint" / ".state-2-leftover").mkdir()
        weights_b, curve_b = trainer(tmp_path / "b")
        assert same(weights, weights_b) and curve == curve_b
        assert not (tmp_path / "b" / "checkpoint").exists()

    def test_the_newest_checkpoint_counts(self, trainer: Trainer, tmp_path: Path) -> None:
        weights, _ = trainer(tmp_path / "a")
        # killed before the older checkpoint is removed
        trainer.interrupted(tmp_path / "b", "Checkpoint._remove", 2)
        names = sorted(p.name for p in (tmp_path / "b" / "checkpoint").iterdir())
        assert names == ["checkpoint.json", "state-1", "state-2"]
        steps: list[int] = []
        original = training._batch
        with trainer.patch.context() as patch:
            patch.setattr(training, "_batch", lambda *args: (steps.append(args[2]), original(*args))[1])
            assert same(trainer(tmp_path / "b")[0], weights)
        assert steps == list(range(30, 45))

    def test_the_seed_decides(self, trainer: Trainer, tmp_path: Path) -> None:
        other = dataclasses.replace(RECIPE, seed=1)
        first, second, third = (trainer(tmp_path / n, r)[0] for n, r in [("a", RECIPE), ("b", RECIPE), ("c", other)])
        assert same(first, second) and not same(first, third)

    def test_a_checkpoint_of_another_recipe_is_refused(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.interrupted(tmp_path, "training._loss", 20)
        with pytest.raises(InputError, match="another recipe"):
            trainer(tmp_path, dataclasses.replace(RECIPE, learning_rate=1e-3))

    @pytest.mark.parametrize("wrong", [{"architecture": "gpt2"}, {"hidden_size": 96}, {"tokens": 31}])
    def test_recipes_that_cannot_be(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=next(iter(wrong))):
            dataclasses.replace(RECIPE, **wrong)

    def test_a_corpus_shorter_than_a_sequence(self, tmp_path: Path) -> None:
        file = SourceFile("a.py", "x\n", lexical_types("x\n"))
        with pytest.raises(InputError, match="3 tokens"):
            training.train(RECIPE, tmp_path, files=[file])


LEARNS: dict[str, Any] = {"length": 32, "batch": 4, "tokens": 300 * 128, "learning_rate": 3e-3}


@pytest.fixture(scope="module", params=training.ARCHITECTURES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, house: Path) -> Path:
    """A model of each architecture, trained for a moment and written as the real ones are."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = dataclasses.replace(RECIPE, architecture=request.param, **LEARNS)
    training.train(recipe, folder, files=list(read_library("heldout", folder=house)))
    return folder


class TestModel:
    def test_reloaded_from_its_folder(self, tiny: Path, house: Path, capfd: pytest.CaptureFixture[str]) -> None:
        before = dict(os.environ)
        model = load_token_model(folder=tiny)
        assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
        assert load_token_model(folder=tiny, dtype=torch.bfloat16).dtype == torch.bfloat16
        assert capfd.readouterr() == ("", "") and dict(os.environ) == before
        stored = load_file(tiny / "model.safetensors")
        assert all(torch.equal(model.get_parameter(name), value.float()) for name, value in stored.items())
        # input and output embedding are one matrix, in the model and in the file
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert len(stored) == len(list(model.parameters()))

    def test_it_has_learnt_more_than_frequencies(self, tiny: Path, house: Path) -> None:
        world = make_tokens(length=32, tokenizer=load_token_tokenizer(folder=tiny), folder=house, sequences=200)
        nats = next_token_nats(load_token_model(folder=tiny), world)
        assert world.bits_per_byte(nats) < unigram_bits_per_byte(world)

    def test_nats_are_those_of_the_loss_of_transformers(self, tiny: Path, house: Path) -> None:
        world = make_tokens(length=32, tokenizer=load_token_tokenizer(folder=tiny), folder=house, sequences=7)
        model = load_token_model(folder=tiny)
        nats = next_token_nats(model, world, batch_size=3)
        with torch.no_grad():
            loss = model(input_ids=world.input_ids, labels=world.input_ids).loss
        torch.testing.assert_close(nats.mean(), loss)
        assert nats.shape == (7, 31) and nats.dtype == torch.float32 and not nats.is_inference()
        torch.testing.assert_close(next_token_nats(model, world), nats)

    def test_bfloat16_logits_go_through_a_float32_softmax(self) -> None:
        logits = torch.randn(2, 5, 50, generator=torch.Generator().manual_seed(0)).bfloat16() * 5
        model = _Fixed(logits)
        ids = torch.randint(50, (2, 5), generator=torch.Generator().manual_seed(1))
        expected = -torch.log_softmax(logits.double(), dim=2)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        torch.testing.assert_close(next_token_nats(model, _world(ids, 50)).double(), expected, atol=1e-5, rtol=1e-5)

    def test_a_world_of_another_vocabulary(self) -> None:
        with pytest.raises(InputError, match="60 tokens and the model knows 50"):
            next_token_nats(_Fixed(torch.zeros(1, 3, 50)), _world(torch.zeros(1, 3, dtype=torch.int64), 60))

    def test_unknown_architecture_and_missing_files(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="write one of 'llama', 'gpt_neox'"):
            load_token_model("gpt2")  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match=r"no config\.json and no model\.safetensors"):
            load_token_model(folder=tmp_path)
        with pytest.raises(InputError, match=r"no tokenizer\.json"):
            load_token_tokenizer(folder=tmp_path)


class _Fixed:
    """A model that answers with the same logits `(n, length, vocab)`."""

    device = torch.device("cpu")

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.config = logits, SimpleNamespace(vocab_size=logits.shape[-1])

    def __call__(self, *, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def _world(ids: Tensor, vocab_size: int) -> TokenWorld:
    n_bytes = torch.ones_like(ids)
    n_bytes[:, 0] = 0
    return TokenWorld(ids, torch.zeros_like(ids), n_bytes, LEXICAL_TYPES, ("a.py",) * len(ids), vocab_size)


class TestWorld:
    def test_sequences_are_stretches_of_their_files(self, house: Path, tokenizer: Any) -> None:
        world = make_tokens(length=24, tokenizer=tokenizer, folder=house)
        assert (world.input_ids[:, 0] == tokenizer.eos_token_id).all()
        assert (world.lexical_type[:, 0] == IGNORE).all() and (world.n_bytes[:, 0] == 0).all()
        for name in set(world.files):
            text = (house / name).read_text(encoding="utf-8")
            rows = [i for i, file in enumerate(world.files) if file == name]
            ids, types, n_bytes = encode(tokenizer, [text], [lexical_types(text)])[0]
            kept = len(rows) * 23
            assert 0 <= len(ids) - kept < 23
            assert world.input_ids[rows, 1:].flatten().tolist() == ids[:kept].tolist()
            assert world.lexical_type[rows, 1:].flatten().tolist() == types[:kept].tolist()
            assert int(world.sequence_bytes[rows].sum()) == n_bytes[:kept].sum()
        assert world.vocab_size == 600 and len(world) == len(world.files) and world.names == LEXICAL_TYPES

    def test_a_draw_is_without_replacement_and_by_the_seed(self, house: Path, tokenizer: Any) -> None:
        def drawn(sequences: int, seed: int) -> list[tuple[int, ...]]:
            world = make_tokens(length=24, tokenizer=tokenizer, folder=house, sequences=sequences, seed=seed)
            return [tuple(row) for row in world.input_ids.tolist()]

        everything = [tuple(r) for r in make_tokens(length=24, tokenizer=tokenizer, folder=house).input_ids.tolist()]
        assert drawn(9, 0) == drawn(9, 0) == drawn(20, 0)[:9] != drawn(9, 1)
        assert sorted(drawn(len(everything), 3)) == sorted(everything)

    def test_errors(self, house: Path, tokenizer: Any) -> None:
        there = len(make_tokens(length=24, tokenizer=tokenizer, folder=house))
        with pytest.raises(InputError, match=f"hold {there}: ask for fewer"):
            make_tokens(length=24, tokenizer=tokenizer, folder=house, sequences=there + 1)
        with pytest.raises(InputError, match="hold 0"):
            make_tokens(length=10**6, tokenizer=tokenizer, folder=house)
        for wrong in ({"length": 1}, {"length": 0}, {"sequences": 0}, {"split": "test"}, {"max_files": 0}):
            with pytest.raises(InputError, match=next(iter(wrong))):
                make_tokens(**{"tokenizer": tokenizer, "folder": house, **wrong})

    def test_bits_per_byte_is_total_bits_over_total_bytes(self, house: Path, tokenizer: Any) -> None:
        world = make_tokens(length=24, tokenizer=tokenizer, folder=house)
        nats = torch.rand(len(world), 23, generator=torch.Generator().manual_seed(0))
        expected = float(nats.double().sum()) / math.log(2) / int(world.n_bytes.sum())
        assert world.bits_per_byte(nats) == pytest.approx(expected, rel=1e-12)
        interval = bootstrap_interval(world.sequence_bits(nats), world.sequence_bytes, groups=world.files)
        assert interval.value == pytest.approx(expected, rel=1e-12) and interval.low < expected < interval.high
        with pytest.raises(InputError, match="one for each token but the first"):
            world.bits_per_byte(nats[:, 1:])

    def test_unigram_is_the_entropy_and_nothing_beats_it(self, house: Path, tokenizer: Any) -> None:
        world = make_tokens(length=24, tokenizer=tokenizer, folder=house)
        tokens = world.input_ids[:, 1:].flatten().tolist()
        share = {t: tokens.count(t) / len(tokens) for t in set(tokens)}
        entropy = -sum(p * math.log2(p) for p in share.values())
        own = unigram_bits_per_byte(world)
        assert own == pytest.approx(entropy * len(tokens) / int(world.n_bytes.sum()), rel=1e-9)
        counts = torch.randint(0, 50, (600,), generator=torch.Generator().manual_seed(0))
        # Gibbs: the entropy is the least cross-entropy of any distribution over single tokens
        assert own < unigram_bits_per_byte(world, train=world) < unigram_bits_per_byte(world, train=counts)

    def test_unigram_of_the_training_split_is_smoothed(self) -> None:
        train, held = _world(torch.tensor([[0, 1, 1, 2]]), 4), _world(torch.tensor([[0, 1, 3]]), 4)
        expected = -torch.tensor([[3 / 7, 1 / 7]], dtype=torch.float64).log()
        torch.testing.assert_close(unigram_nats(held, train=train), expected)
        with pytest.raises(InputError, match="expected one for each of 4 tokens"):
            unigram_nats(held, train=torch.zeros(5))


class TestShipped:
    """The models that come with efface-worlds."""

    def test_they_share_one_tokenizer(self) -> None:
        first, second = (WEIGHTS.joinpath(name, "tokenizer.json").read_bytes() for name in training.ARCHITECTURES)
        assert first == second

    @pytest.mark.parametrize("architecture", training.ARCHITECTURES)
    def test_they_are_small(self, architecture: str) -> None:
        files = [path for path in (WEIGHTS / architecture).iterdir() if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 15 * 2**20
        assert {value.dtype for value in load_file(WEIGHTS / architecture / "model.safetensors").values()} == {
            torch.bfloat16
        }

    @pytest.mark.parametrize("architecture", training.ARCHITECTURES)
    def test_they_know_python_that_they_have_not_seen(self, architecture: Any) -> None:
        world = make_tokens(sequences=24, tokenizer=load_token_tokenizer(architecture))
        nats = next_token_nats(load_token_model(architecture), world)
        assert bool(nats.isfinite().all()) and bool((nats > 0).all())
        interval = bootstrap_interval(world.sequence_bits(nats), world.sequence_bytes, groups=world.files)
        assert interval.high < unigram_bits_per_byte(world) / 2
