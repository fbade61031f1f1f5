"""Tasks on a Ray that runs: bounded in number, done again where a worker died, merged along a tree."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from efface._errors import GroupError
from efface._progress import progress
from efface._text import one_line
from efface.engines import cluster
from efface.engines.sums import engine_of
from efface.engines.tree import Tree
from efface.streams.concepts import Concept
from efface.streams.inputs import Inputs
from efface.streams.pieces import Tables

_WAITING = 2
"""Tasks that are begun, for each core."""


class Block:
    """A block that a task is given, in the place of a source."""

    def __init__(self, ref: Any, where: str) -> None:
        self.ref, self.where = ref, where


class Work:
    """Tasks on a Ray that runs: bounded in number, done again where a worker died, merged along a tree.

    Args:
        ray: The module.
        workers: Tasks at a time; None is the number of cores of the cluster.
        max_retries: How often a task may die.
    """

    def __init__(self, ray: Any, workers: int | None = None, max_retries: int = 3) -> None:
        cores = int(ray.cluster_resources().get("CPU", 1))
        self._ray, self._most = ray, max(2, min(workers or cores, cores) * _WAITING)
        how = {"num_cpus": 1, "max_retries": max_retries, "retry_exceptions": False}
        self._task = ray.remote(**how, num_returns=2)(_done)
        self._merge = ray.remote(**how)(_merged)
        self.pids: set[int] = set()
        self.parts = 0

    def over(
        self,
        parts: Iterable[Any],
        work: Callable[[Any], Any],
        merge: Callable[[Any, Any], Any],
        name: str = "",
        rows: int | None = None,
        left: str = "nothing was fitted; a task needs the memory of its sums, see the docs",
    ) -> Any:
        """What the work makes of all parts, merged in their order; None of no parts.

        Args:
            parts: What each task is given.
            work: The work; a function that can be pickled, and changes nothing.
            merge: Of what two neighbours gave.
            name: For the bar of progress.
            rows: How many rows there are in all.
            left: What to say is left where workers die again and again.

        Raises:
            GroupError: If they do.
        """
        shared, pending, self.parts = self._ray.put((work, merge)), [], 0
        value = note = whole = None
        tree = Tree(lambda a, b: self._merge.remote(shared, a, b))
        try:
            with progress(name, rows) as bar:
                for part in parts:
                    x = getattr(part, "x", None)
                    block = x.ref if isinstance(x, Block) else None
                    given = replace(part, x=x.where) if isinstance(x, Block) else part
                    value, note = self._task.remote(shared, given, block)
                    tree.add(value)
                    pending.append(note)
                    self.parts += 1
                    pending = self._waited(pending, self._most - 1, bar)
                whole = tree.whole()
                self._waited(pending, 0, bar)
                return None if whole is None else self._ray.get(whole)
        except BaseException as error:
            for note in pending:
                self._ray.cancel(note)
            tree = pending = value = note = whole = None  # what nobody holds Ray forgets, and says nothing of it later
            self._explain(error, left)
            raise

    def about(self, fitter: Any, concepts: Sequence[Concept]) -> dict[str, Any]:
        """For the provenance of what came of it."""
        return engine_of("ray", fitter, concepts, version=importlib.metadata.version("ray"), parts=self.parts)

    def _waited(self, pending: list[Any], most: int, bar: Any) -> list[Any]:
        while len(pending) > most:
            done, pending = self._ray.wait(pending, num_returns=1)
            for note in self._ray.get(done):
                self.pids.add(note["pid"])
                bar.update(note["rows"])
        return pending

    def _explain(self, error: Any, left: str) -> None:
        """Raise in place of an error of Ray what it means here."""
        wrong = self._ray.exceptions
        if isinstance(error, wrong.RayTaskError):
            if isinstance(error.cause, wrong.RayError):
                self._explain(error.cause, left)
            raise error.cause from None
        if isinstance(error, wrong.RayError):
            raise GroupError(
                f"workers of Ray died more often than max_retries allows, or their results were lost "
                f"({one_line(error)[:300]}): {left}"
            ) from error


def _done(shared: Any, inputs: Any, block: Any) -> tuple[Any, dict[str, int]]:
    """A task: what the work makes of a part, and a note that is small."""
    if block is not None:
        inputs = replace(inputs, x=Tables((_as_arrow(block),), inputs.x))
    done = shared[0](inputs)
    rows = inputs.x.rows or 0 if isinstance(inputs, Inputs) else done.rows
    return done, {"rows": rows, "pid": os.getpid()}


def _merged(shared: Any, first: Any, second: Any) -> Any:
    return shared[1](first, second)


def _as_arrow(block: Any) -> Any:
    """A block as a table of pyarrow; arrays of Ray's own type as lists, on the same memory."""
    data = cluster.require("ray.data.block", extra="ray")
    return data.BlockAccessor.for_block(block).to_arrow()
