"""Hidden states at sites as plain rows, for probes and audits that know nothing of models."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import brief
from efface._validate import check_positive_int
from efface.core.doors import check_call
from efface.core.erasure import Erasure
from efface.core.hooks import StateEdit
from efface.core.site import Site
from efface.scrubbing.batches import Batch, Batches
from efface.scrubbing.examples import small_inputs
from efface.scrubbing.forward import Take, at_rest, bare, execution_order, run_to, taking
from efface.scrubbing.sites import SiteFinder, SitesLike
from efface.scrubbing.token_labels import IGNORE


@dataclass(frozen=True)
class SiteFeatures:
    """Hidden states of the same tokens at several sites.

    Attributes:
        x: Address of the site -> `(n, d)` float32, in the order of a forward pass.
        labels: `(n, ...)`.
        sequence: `(n,)` number of the sequence each token is of, for folds that split none.
        position: `(n,)` place in its sequence; 0 where there is one row a sequence.
    """

    x: dict[str, Tensor]
    labels: Tensor
    sequence: Tensor
    position: Tensor

    __repr__ = brief


def collect(
    model: nn.Module,
    data: Any,
    concept: Any,
    *,
    sites: SitesLike,
    scrubber: Erasure | None = None,
    max_rows: int = 10_000,
    batch_size: int = 8,
    ignore_index: int = IGNORE,
    table: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> SiteFeatures:
    """Hidden states of labelled tokens at sites, with a scrubber on or not.

    Args:
        model: Any module.
        data: As for `scrub`.
        concept: As for `scrub`.
        sites: As for `scrub`; in the order of a forward pass they come back.
        scrubber: A `Scrubber`, or another erasure for models, to be on; what is collected at its own sites is after the
            edit.
        max_rows: Tokens to keep, drawn at random by `seed` if there are more; the same ones with and without scrubber.
        batch_size: As for `scrub`.
        ignore_index: As for `scrub`.
        table: As for `scrub`.
        seed: Of the draw.

    Raises:
        InputError: As `scrub`.
    """
    check_call(collect, locals())
    model = bare(model)
    batches = Batches(data, concept, batch_size=batch_size, ignore_index=ignore_index)
    places = SiteFinder(model, table, partial(small_inputs, model, batches)).find(sites)
    found = list(execution_order(model, places, next(iter(batches))))
    gatherer = _Gatherer(model, found, ignore_index, check_positive_int(max_rows, "max_rows"), seed)
    with at_rest(model), nullcontext() if scrubber is None else scrubber.on(model):
        for batch in batches:
            gatherer.add(batch)
    return gatherer.result()


class _Gatherer:
    """Rows drawn at random from a stream: each gets a random number, and those with the smallest are kept."""

    def __init__(self, model: nn.Module, sites: list[Site], ignore_index: int, max_rows: int, seed: int) -> None:
        self._model, self._sites, self._ignore, self._max = model, sites, ignore_index, max_rows
        self._generator = torch.Generator().manual_seed(seed)
        self._columns: dict[str, list[Tensor]] = {}

    def add(self, batch: Batch) -> None:
        """One forward pass, up to the last site."""
        edits: dict[Site, StateEdit] = {}
        for i, site in enumerate(self._sites):
            take = self._taker(str(i), site, batch, first=i == 0)
            edits[site] = taking(batch, site, take, self._ignore, stop=i == len(self._sites) - 1)
        run_to(self._model, batch, edits)
        if sum(map(len, self._columns["key"])) > 2 * self._max:
            self._thin()

    def _taker(self, name: str, site: Site, batch: Batch, *, first: bool) -> Take:
        def take(x: Tensor, labels: Tensor, counted: Tensor) -> None:
            self._append(name, x[counted].float())
            if not first and len(self._columns[name][-1]) != len(self._columns["key"][-1]):
                raise InputError(
                    f"{site} and {self._sites[0]} see different tokens (encoder and decoder?): collect them separately"
                )
            if first:
                where = counted.nonzero()
                self._append("labels", labels[counted])
                self._append("sequence", where[:, 0] + batch.first)
                self._append("position", where[:, 1] if where.shape[1] > 1 else torch.zeros_like(where[:, 0]))
                self._append("key", torch.rand(len(where), generator=self._generator, dtype=torch.float64))

        return take

    def _append(self, name: str, rows: Tensor) -> None:
        self._columns.setdefault(name, []).append(rows.cpu())

    def _thin(self) -> None:
        columns = {name: torch.cat(rows) for name, rows in self._columns.items()}
        kept = columns["key"].argsort()[: self._max].sort().values
        self._columns = {name: [rows[kept]] for name, rows in columns.items()}

    def result(self) -> SiteFeatures:
        """The rows that were drawn, in the order of the data."""
        self._thin()
        c = {name: rows[0] for name, rows in self._columns.items()}
        x = {str(site): c[str(i)] for i, site in enumerate(self._sites)}
        return SiteFeatures(x, c["labels"], c["sequence"], c["position"])
