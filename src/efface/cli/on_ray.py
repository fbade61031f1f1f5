"""`efface fit` and `efface apply` on Ray: their passes over rows and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from efface.cli.options import Fit
from efface.core.config import Config
from efface.core.method import Method
from efface.engines import cluster, passes
from efface.engines.parts import Job
from efface.engines.tasks import Work
from efface.engines.writing import Order, begun
from efface.streams import Source
from efface.streams.concepts import Concept
from efface.streams.inputs import Inputs


class OnRay:
    """A fit in tasks of Ray, on this machine or a cluster.

    Args:
        address: Of a cluster; None starts a Ray here.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._work: Any = None
        self._rows: Any = None

    @contextmanager
    def ready(self, source: Source) -> Iterator[None]:
        """A context in which it can run."""
        self._rows = passes.OfFiles(source, None)
        with cluster.running(self._address) as found:
            self._work = Work(found)
            yield

    def filled(self, inputs: Inputs, rows: int) -> Inputs:
        """With the means of the features, if these stand for missing values."""
        return passes.filled(self._work, self._rows, inputs, rows)

    def learn_concepts(self, inputs: Inputs, kind: str, rows: int) -> tuple[Concept, ...]:
        """What the concepts are, and say so."""
        concepts = passes.learn_concepts(self._work, self._rows, inputs, kind, rows)
        for concept in concepts:
            print(f"concept {concept}")
        return concepts

    def gather(
        self, inputs: Inputs, concepts: Sequence[Concept], method: Method, config: Config, args: Fit
    ) -> tuple[Any, Any]:
        """A fitter that has seen all rows, and what its columns are like."""
        options = {option.name: getattr(config, option.name) for option in config.options()}
        job = Job(method.name, inputs.features, tuple(concepts), options, inputs.missing, inputs.means, args.chunk_rows)
        return passes.fitted(self._work, self._rows, inputs, job)

    def about(self, fitter: Any, concepts: Sequence[Concept]) -> dict[str, Any]:
        """For the provenance."""
        return self._work.about(fitter, concepts)


def erase_files(
    order: Order, source: Source, named: Sequence[str], folder: Path, look: Callable[[], Any], address: str | None
) -> passes.Erased:
    """Erase files into a folder, a file in a task.

    Args:
        order: What is erased from which columns.
        source: The files.
        named: What the user named them by.
        folder: Where to write.
        look: As in `passes.erased`.
        address: Of a cluster; None starts a Ray here.

    Raises:
        InputError: If the folder is of something else, or a value cannot be used.
    """
    pairs = begun(order, source, folder, named)
    with cluster.running(address) as found:
        return passes.erased(Work(found), order, pairs, folder, source.rows, look)
