"""Language models by name: folders, erasures beside them, texts whose words are read; what is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import efface
from efface import InputError
from efface.audit import Audit
from efface.audit.remembrance import Registry
from efface.audit.remembrance.by_tokens import remembered_by_tokens
from efface.audit.remembrance.language_models import HUB, load_language_model, read_texts
from efface.cli import main

transformers = pytest.importorskip("transformers")
FEW: Any = {"draws": 100, "fewest": 5}
NAMES = ("ada", "mary", "they", "caroline", "the", "engine", "sky", "saw", "Saw", ",", ".")


def tokenizer_of(words: tuple[str, ...]) -> Any:
    """A fast tokenizer of whole words."""
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, **{word: i for i, word in enumerate(words, 1)}}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


def model_of(size: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=size, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=64,
        )
    ).eval()  # fmt: skip


def texts(n: int = 40) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(NAMES[:9], 12)) + "." for _ in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models `before` and `after` with a tokenizer, `other` of other words, `bare` without; an `erasure`."""
    path = tmp_path_factory.mktemp("models")
    words = tokenizer_of(NAMES)
    for name, seed in (("before", 0), ("after", 1), ("bare", 0)):
        model_of(len(words), seed).save_pretrained(path / name)
    for name in ("before", "after"):
        words.save_pretrained(path / name)
    model_of(len(words), 2).save_pretrained(path / "other")
    tokenizer_of(tuple(reversed(NAMES))).save_pretrained(path / "other")
    ids = words(texts(), padding=False)["input_ids"]
    labels = (torch.tensor(ids) == NAMES.index("they") + 1).long()
    scrubber = efface.scrub(model_of(len(words)), torch.tensor(ids), labels, sites="norms")  # type: ignore[attr-defined]
    scrubber.save(path / "erasure")
    (path / "texts.txt").write_text("\n".join([*texts(), "", " "]), encoding="utf-8")
    return path


def test_models_by_name_are_the_models_and_words_are_read(folder: Path) -> None:
    audit = remembered_by_tokens(str(folder / "before"), folder / "after", texts(), target=["They"], **FEW)
    tokens = load_language_model(folder / "before").tokenizer
    ids = torch.tensor(tokens(texts())["input_ids"])
    words = np.array([["", *(name.lower() for name in NAMES)][i] for i in ids.reshape(-1)]).reshape(ids.shape)
    own = remembered_by_tokens(model_of(len(tokens)), model_of(len(tokens), 1), ids, words, target=["they"], draws=100)
    assert audit.findings == own.findings and audit.settings["entities"] == 9  # Saw and saw are one word
    assert audit.conclusions == own.conclusions


def test_an_erasure_in_a_folder_is_put_on(folder: Path) -> None:
    audit = remembered_by_tokens(folder / "before", folder / "erasure", texts(), target=["they"], **FEW)
    own = remembered_by_tokens(folder / "before", efface.load(folder / "erasure"), texts(), target=["they"], **FEW)
    assert audit.findings == own.findings
    same = remembered_by_tokens(folder / "before", folder / "before", texts(), target=["they"], **FEW)
    assert same.find("bystanders", "remembered", "change").value == 0 and audit.findings != same.findings


def test_tokens_are_of_the_words_they_are_in() -> None:
    class Pieces:
        """Cuts every three signs, spaces with what follows."""

        is_fast = True

        def __call__(self, given: list[str], **_: Any) -> dict[str, Any]:
            where = [[(0, 0), *((i, min(i + 3, len(text))) for i in range(0, len(text), 3))] for text in given]
            return {"input_ids": [list(range(len(each))) for each in where], "offset_mapping": where}

    options: Any = {"length": 9, "fewest": 1, "keep": ()}
    found, words = read_texts(["Ada, ada()", "x"], Pieces(), registry=None, **options)
    # Ada | ", a" | "da(" | ")": of several words all that is there
    assert words.tolist() == [["", "ada", ", a", "da(", ")"], ["", "x", "", "", ""]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    known = Registry.of(["lovelace"], aliases=[["ADA"]])
    assert read_texts(["Ada, ada()"], Pieces(), registry=known, **options)[1].tolist() == [["", "lovelace", "", "", ""]]
    rare: Any = {**options, "fewest": 2, "keep": ["BEA"]}
    assert set(read_texts(["ada", "bea ada", "cleo"], Pieces(), registry=None, **rare)[1].flat) == {"", "ada", "bea"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "{}/none"}, "there is no folder .*none: give a folder written by model.save_pretrained"),
        ({"model": "{}"}, "no model of transformers has its config.json in"),
        ({"model": " "}, "the name of a language model is ' '"),
        ({"after": "{}/none"}, "there is no folder .*none"),
        ({"after": "{}/odd"}, "is no language model .* and no erasure"),
        ({"after": "{}/other"}, "has other tokens than"),
        ({"after": "{}/classifier"}, "cannot be loaded as a causal language model"),
        ({"after": "{}/untrained"}, "has no trained weights for"),
        ({"after": "{}/weightless"}, "cannot be loaded as a causal language model"),
        ({"model": "{}/bare"}, "tokenizer is missing, and .*bare has none beside it"),
        ({"words": [["a"]]}, "words goes with token ids"),
        ({"tokenizer": 3}, "the tokenizer is 3, which does not say"),
        ({"target": ["theyy"]}, r"target has theyy, which is none of the ids \(did you mean 'they'\?\)"),
        ({"data": torch.ones(4, 5, dtype=torch.int64), "fewest": None}, "words is missing"),
        ({"data": torch.ones(4, 5, dtype=torch.int64), "words": np.full((4, 5), "a")}, "go with texts"),
        ({"fewest": 0}, "fewest"),
        ({"length": 0}, "length"),
        ({"data": ["", " "]}, "words has no word of a token"),
        ({"model": "hub:nobody/nothing-of-this-name"}, "HF_HUB_OFFLINE is set, and it is not in the cache"),
        ({"model": "hub:"}, "the name of a language model is 'hub:'"),
    ],
)
def test_what_is_no_language_model_is_refused(
    folder: Path, change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "odd").mkdir()
    config = json.loads((folder / "before/config.json").read_text())
    for name in ("untrained", "weightless"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "classifier").mkdir()
    (tmp_path / "classifier/config.json").write_text(json.dumps({"model_type": "vit"}))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "before/model.safetensors")
    weights.pop(next(name for name in weights if "embed_tokens" in name))
    save_file(weights, tmp_path / "untrained/model.safetensors", {"format": "pt"})

    def placed(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        here = tmp_path if (tmp_path / value.removeprefix("{}/")).exists() and value != "{}" else folder
        return value.format(here)

    given: dict[str, Any] = {"model": "{}/before", "after": "{}/after", "data": texts(), "target": ["they"], **FEW}
    with pytest.raises(InputError, match=said):
        remembered_by_tokens(**{name: placed(value) for name, value in {**given, **change}.items()})


def test_a_model_that_has_seen_what_it_predicts_is_refused_and_one_reads_no_more_than_it_can(folder: Path) -> None:
    torch.manual_seed(0)
    small: Any = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    filling = transformers.BertLMHeadModel(
        transformers.BertConfig(**small, intermediate_size=8, max_position_embeddings=32, initializer_range=0.5)
    ).eval()
    words = load_language_model(folder / "before").tokenizer
    own: Any = {"data": texts(), "target": ["they"], "tokenizer": words, **FEW}
    with pytest.raises(InputError, match="the model of 'before' says of a token changes with the tokens behind it"):
        remembered_by_tokens(filling, filling, **own)
    with pytest.raises(InputError, match="the model of 'after' says"):
        remembered_by_tokens(folder / "before", filling, **own)
    short = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=12, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
    ).eval()
    with pytest.raises(InputError, match="length is 9, and the model reads 8 tokens at most"):
        remembered_by_tokens(short, short, length=9, **own)
    audit = remembered_by_tokens(short, short, **own)
    assert audit.settings["answers in an arm"] < 40 * 8


def test_no_folder_is_looked_up_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is misspelt could be somebody's model there."""

    def called(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was asked")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", called)
    with pytest.raises(InputError, match="there is no folder gpt2"):
        load_language_model("gpt2")
    with pytest.raises(AssertionError, match="it was asked"):
        load_language_model(f"{HUB}gpt2")


def test_from_the_shell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--draws", "100", "--fewest", "5"]
    said = ["remember", str(folder / "before"), str(folder / "erasure"), "--texts", str(folder / "texts.txt"), *few]
    assert main([*said, "--target", "they", "-o", str(folder / "a.json")]) == 0
    audit = Audit.from_dict(json.loads((folder / "a.json").read_text()))
    own = remembered_by_tokens(folder / "before", folder / "erasure", texts(), target=["they"], **FEW)
    assert audit.findings == own.findings
    capsys.readouterr()
    for more, message in (
        (["--ask", "q.csv"], "--ask goes without --texts"),
        (["--seeds", "2"], "--seeds goes without --texts"),
        (["--merit", "1"], "--merit goes without --texts"),
        (["--target", "theyy"], "did you mean 'they'?"),
    ):
        assert main([*said, *more]) == 2 and message in capsys.readouterr().err
    assert main(["remember", str(folder / "before"), str(folder / "after")]) == 2
    assert "is a language model: say what it should read, --texts texts.txt" in capsys.readouterr().err
    assert main(["remember", str(folder / "before"), "--texts", str(folder / "texts.txt")]) == 2
    assert "AFTER is missing" in capsys.readouterr().err
    assert main([*said[:4], str(folder / "none.txt")]) == 2
    assert "there is no file" in capsys.readouterr().err
