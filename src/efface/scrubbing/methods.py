"""Every method of rows whose erasers need no labels, as a method of models: at their sites, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import nn

from efface._errors import InputError
from efface.core.method import Method, methods, register
from efface.scrubbing.config import ScrubConfig, config_for
from efface.scrubbing.fitting import scrub_with
from efface.scrubbing.planning import Beyond
from efface.scrubbing.scrubber import Scrubber


def _fit(rows: Method) -> Callable[..., Scrubber]:
    def fit(
        model: nn.Module,
        labels: Any,
        config: ScrubConfig,
        *,
        data: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        scratch: str | os.PathLike[str] | None = None,
        memory: int | str | None = None,
        beyond: Beyond = "passes",
    ) -> Scrubber:
        if data is None:
            raise InputError("pass what goes through the model, erase(model, labels, data=..., sites='norms')")
        room = {"scratch": scratch, "memory": memory, "beyond": beyond}
        return scrub_with(rows, model, data, labels, config, checkpoint=checkpoint, **room)

    return fit


def _of_models(rows: Method) -> Method:
    return Method(
        name=rows.name,
        subjects=("model",),
        summary=f"at sites of a model, one after the other: {rows.summary}",
        paper="arXiv:2306.03819, Algorithm 1",
        fit=_fit(rows),
        erasure=Scrubber,
        config=config_for(rows),
        access=("rows", "labels"),
        access_on=("rows",),
        guarantee=f"{rows.guarantee}; of a sequential fit at every site at once" if rows.guarantee else "",
        no_guarantee="that nothing is read from several tokens or sites together, or from sites that were not named",
        concepts=rows.concepts,
    )


for _rows in methods("rows"):
    if not _rows.labels_at_apply:
        register(_of_models(_rows))
