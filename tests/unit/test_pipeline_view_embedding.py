"""Prompts as a value of tensors."""

import pytest
import torch

from efface import InputError
from efface.pipelines import PipelineView, PromptEmbedding
from tests.pipelines import tiny


def encoded(name, prompts=("a red circle", "a star"), **options):
    return PipelineView.of(tiny(name)).encode(list(prompts), **options)


def test_fields_of_sd3():
    e = encoded("sd3", negative="a ring")
    assert e.sequence.shape == (2, 77 + 256, 32) and e.pooled is not None and e.pooled.shape == (2, 28)
    assert e.mask is None and e.negative is not None and e.negative.negative is None
    assert e.prompts == ("a red circle", "a star") and e.negative.prompts == ("a ring", "a ring")
    shapes = {name: tuple(part.shape) for name, part in e.sequences.items()}
    assert shapes == {"text_encoder": (2, 77, 16), "text_encoder_2": (2, 77, 12), "text_encoder_3": (2, 256, 32)}
    assert {k: tuple(v.shape) for k, v in e.pooled_parts.items()} == {
        "text_encoder": (2, 16),
        "text_encoder_2": (2, 12),
    }


def test_parts_are_replaced_where_they_lie():
    e = encoded("sd3")
    part = torch.randn(2, 77, 12)
    changed = e.replace(sequences={"text_encoder_2": part})
    assert torch.equal(changed.sequences["text_encoder_2"], part)
    for name in ("text_encoder", "text_encoder_3"):
        assert torch.equal(changed.sequences[name], e.sequences[name])
    assert not torch.equal(changed.sequence, e.sequence) and torch.equal(changed.sequence[:, 77:], e.sequence[:, 77:])
    with pytest.raises(InputError, match="no rows of 'clip' are in the sequence: there are rows of text_encoder,"):
        e.replace(sequences={"clip": part})
    with pytest.raises(InputError, match=r"must keep its shape \(2, 77, 16\)"):
        e.replace(sequences={"text_encoder": part})


def test_batches_are_cut_and_joined():
    e = encoded("pixart-sigma", negative=["a ring", "the"])
    again = PromptEmbedding.cat([e[0], e[1]])
    assert len(e[0]) == 1 and e[-1].prompts == ("a star",) and again.prompts == e.prompts
    for a, b in ((again, e), (again.negative, e.negative)):
        assert a is not None and b is not None
        assert all(torch.equal(x, y) for x, y in zip(a.tensors().values(), b.tensors().values(), strict=True))
    assert e.mask is not None and again.mask is not None
    with pytest.raises(IndexError):
        e[2]
    with pytest.raises(InputError, match="do not have the same tensors"):
        PromptEmbedding.cat([e, encoded("sd1")])
    with pytest.raises(InputError, match="nothing to put together"):
        PromptEmbedding.cat([])


def test_other_dtypes_leave_masks_alone():
    e = encoded("ltx").to(torch.float64)
    assert e.sequence.dtype == torch.float64 and e.mask is not None and e.mask.dtype == torch.bool
    assert e.negative is not None and e.negative.sequence.dtype == torch.float64
    assert e.to("cpu").sequence.dtype == torch.float64


def test_encoding_one_by_one_is_encoding_together():
    whole = encoded("sd3")
    one = PromptEmbedding.cat([encoded("sd3", [p]) for p in whole.prompts])
    torch.testing.assert_close(one.sequence, whole.sequence)
    torch.testing.assert_close(one.pooled, whole.pooled)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sequence": torch.zeros(3, 4)}, r"sequence must be \(n, rows, width\)"),
        ({"sequence": [1.0]}, "is a list"),
        ({"sequence": torch.zeros(2, 3, 4), "pooled": torch.zeros(1, 4)}, "pooled must be .* with n = 2"),
        ({"sequence": torch.zeros(2, 3, 4), "mask": torch.zeros(2, 4)}, r"mask must be \(n, rows\) = \(2, 3\)"),
        (
            {"sequence": torch.zeros(2, 3, 4), "negative": PromptEmbedding(torch.zeros(1, 3, 4))},
            "negative has 1 prompts, sequence has 2",
        ),
    ],
)
def test_what_is_refused(fields, text):
    with pytest.raises(InputError, match=text):
        PromptEmbedding(**fields)


def test_an_embedding_shows_itself_in_a_line():
    said = repr(encoded("sd3"))
    assert "sequence=float32 (2, " in said and "'a star'" in said
    assert "tensor(" not in said and "\n" not in said and len(said) < 500


def test_replacing_checks_names_and_shapes():
    e = encoded("sd1")
    with pytest.raises(InputError, match="has no field 'tokens': it has edits, layout, mask"):
        e.replace(tokens=1)
    with pytest.raises(InputError, match=r"must keep its shape \(2, 77, 32\), got a tensor of shape \(2, 5, 32\)"):
        e.replace(sequence=e.sequence[:, :5])
    before = e.sequence.clone()
    assert e.replace(sequence=e.sequence + 1) is not e and torch.equal(e.sequence, before)
