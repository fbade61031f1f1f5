"""Levels of access, by what a subject can do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from efface import PipelineView
from efface.audit import subjects
from efface.audit.subjects import ACCESS, access_of
from efface.streams import open_source
from tests.pipelines import tiny

INSIDE = ("gradients", "weights")


@pytest.mark.parametrize(
    ("subject", "levels"),
    [
        (np.zeros((3, 2)), ("rows",)),
        (torch.zeros(3, 2), ("rows",)),
        (nn.Linear(2, 2), INSIDE),
        (nn.Sequential(nn.Linear(2, 2)), INSIDE),
        ("a prompt", ()),
        (lambda x: x, ()),
    ],
    ids=["array", "tensor", "module", "sequence", "text", "function"],
)
def test_a_subject_gives_the_access_that_it_has(subject: Any, levels: tuple[str, ...]) -> None:
    assert access_of(subject) == levels


def test_a_file_gives_rows(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    assert access_of(open_source(str(tmp_path / "x.npy"))) == ("rows",)


def test_a_view_of_a_pipeline_gives_all_but_rows() -> None:
    view = PipelineView.of(tiny("sd1"))
    assert access_of(view) == ACCESS[1:]
    assert all(hasattr(view, name) for name in ("pipe", "check_prompts"))


def test_who_only_draws_gives_prompts_alone() -> None:
    class Api:
        def sample(self, prompts: Any, seeds: Any, **options: Any) -> Any: ...

    assert access_of(Api()) == ("prompts",)


def test_every_protocol_says_its_level_in_one_line() -> None:
    for name, protocol in vars(subjects).items():
        if getattr(protocol, "_is_protocol", False) and protocol.__module__ == subjects.__name__:
            first = (protocol.__doc__ or "").splitlines()[0]
            assert "access to " in first and any(level in first for level in ACCESS), name
