"""Rows that are too many for memory: a parquet file, read by polars a part of the entities at a time.

The rows are first written anew, as small numbers, in parts that hold all rows of some entities each. An audit then
reads them twice, part by part: what it keeps is by entity, question and answer, and never by row.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import FormatError, InputError
from efface._io import as_path
from efface._lazy import require
from efface._validate import check_positive_int, did_you_mean
from efface.audit.remembrance.columns import (
    ANSWER_TYPES,
    EXTRA,
    IDS,
    MERIT_TWICE,
    NEEDED,
    TYPES,
    in_order,
    read_columns,
)
from efface.audit.remembrance.exposure import Flat
from efface.audit.remembrance.ledger import Ledger
from efface.audit.remembrance.panel import Panel, aligned
from efface.audit.remembrance.registry import EXACT, Registry
from efface.audit.remembrance.systems import STATUSES
from efface.core.doors import check_call

_KEY = "efface.ledger"
_AT_ONCE, _HELD = 4_000_000, 1_000_000
_NUMBERS = ("seed", "hit", "score", "exposure", "status", "merit", "unresolved")


class StreamedLedger:
    """Rows of a parquet file (or of a folder of them), as `Ledger` has them, for `efface.audit.remembered`.

    Args:
        path: The file: columns as of `Ledger.of_table`, or what `write_ledger` wrote. `rank` is not read: write
            `exposure`.
        merit: Merit of every row, where there is no such column: it has to be declared.
        at_once: How many rows to hold at a time, at most, but for all rows of one entity.
        folder: Where to keep the rows meanwhile, about 10 bytes each; None takes the system's folder for such files.
            They are removed with `close`, at the end of a `with`, or with the object.

    Raises:
        InputError: If a column is missing or has gaps, or a value is none of those that it may have.
        MissingExtraError: If polars is not installed.

    Does not guarantee: that the same row is not there twice in files that efface did not write; each panel refuses it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        merit: float | None = None,
        at_once: int = _AT_ONCE,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        check_call(StreamedLedger.__init__, {**locals(), "self": None})
        self._pl = require("polars", extra=EXTRA)
        self._at_once, self._path = check_positive_int(at_once, "at_once"), as_path(path)
        if not self._path.exists():
            raise FileNotFoundError(f"there is no file {self._path}")
        rows = self._read(merit)
        self.attention = self._attention()
        self._survey(rows)
        self.folder = Path(tempfile.mkdtemp(prefix="efface-rows-", dir=folder))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._split(rows)

    def __enter__(self) -> StreamedLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was kept."""
        self._remove()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"StreamedLedger({str(self._path)!r}, {self._count:,} rows in {self.parts} parts)"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, or of the digests of all files of a folder."""
        found = []
        for path in self._files():
            with path.open("rb") as file:
                found.append(file_digest(file, "sha256").hexdigest())
        return found[0] if len(found) == 1 else sha256("\n".join(found).encode()).hexdigest()

    def panels(self, registry: Registry, arms: Sequence[str]) -> Iterator[Panel]:
        """Arms side by side, for some entities after the others.

        Raises:
            InputError: If an arm is missing or unbalanced, a row is there twice, or an entity is not in the registry.
        """
        if strange := [arm for arm in arms if arm not in self.arms]:
            near = did_you_mean(strange[0], [arm for arm in self.arms if arm not in arms])
            raise InputError(f"the rows have no arm {strange[0]!r}; they have {', '.join(map(repr, self.arms))}{near}")
        for part in range(self.parts):
            yield aligned(self._part(part, arms), registry, arms)

    def _part(self, part: int, arms: Sequence[str]) -> Ledger:
        pl, chosen = self._pl, [self.arms.index(arm) for arm in arms]
        stored = pl.scan_parquet(self.folder / f"part={part}" / "*.parquet")
        rows = stored.filter(pl.col("arm").is_in(chosen)).collect()
        own = np.isin(self._answers["arm"], chosen)
        answers = {name: values[own] for name, values in self._answers.items()}
        lists = (self.entities, self.queries, self.arms)
        if not len(rows):
            return Ledger(*lists, {name: np.empty(0, dtype=kind) for name, kind in TYPES.items()}, answers)
        columns = read_columns({name: rows[name].to_numpy() for name in TYPES}, dict(zip(IDS, lists, strict=True)))
        # Ids and answers are in order: only rows have to be brought into it.
        found = in_order(columns, ("arm", "query", "seed", "entity"), "the rows")
        return Ledger(*lists, found, answers, self.attention)

    def _files(self) -> list[Path]:
        return sorted(self._path.rglob("*.parquet")) if self._path.is_dir() else [self._path]

    def _read(self, merit: float | None) -> Any:
        """The rows, lazily, with what may be missing filled in; of ids text, of all else numbers."""
        pl = self._pl
        files = self._files()
        if not files:
            raise FileNotFoundError(f"the folder {self._path} has no .parquet file")
        return pl.concat([self._columns(path, merit) for path in files])

    def _columns(self, path: Path, merit: float | None) -> Any:
        """The rows of one file."""
        pl = self._pl
        try:
            rows = pl.scan_parquet(path)
            schema = dict(rows.collect_schema())
        except pl.exceptions.PolarsError as error:
            raise FormatError(f"{path} cannot be read as parquet: {str(error)[:200]}") from error
        if lacks := [name for name in NEEDED if name not in schema]:
            raise InputError(f"{path} has no column {', '.join(lacks)}; it has {', '.join(schema) or 'none'}")
        if "merit" not in schema and merit is None:
            raise InputError(
                f"{path} has no column merit, which says who should be remembered: add it (0 where an entity is "
                "mentioned without being relevant), or write merit=1.0 to declare that each row should be"
            )
        if "merit" in schema and merit is not None:
            raise InputError(MERIT_TWICE.format(merit, path))
        if "rank" in schema and "exposure" not in schema:
            raise InputError(f"{path} has ranks and no exposure: write the column exposure, e.g. 0.8**rank")
        status = pl.col("status") if "status" in schema else pl.lit(0)
        if schema.get("status") in (pl.String, pl.Categorical) or isinstance(schema.get("status"), pl.Enum):
            codes = {name: code for code, name in enumerate(STATUSES)}
            status = status.cast(pl.String).replace_strict(codes, default=-1, return_dtype=pl.Int8)
        hit = pl.col("hit").cast(pl.Float64, strict=False)
        chosen = {
            **{name: self._named(name, schema[name]) for name in IDS},
            "seed": pl.col("seed") if "seed" in schema else pl.lit(0),
            "hit": hit,
            "score": pl.col("score") if "score" in schema else hit,
            "exposure": pl.col("exposure") if "exposure" in schema else hit,
            "status": status,
            "merit": pl.col("merit") if "merit" in schema else pl.lit(merit),
            "unresolved": pl.col("unresolved") if "unresolved" in schema else pl.lit(None),
        }
        ids = [chosen[name].alias(name) for name in IDS]
        return rows.select(*ids, *(chosen[name].cast(pl.Float64, strict=False).alias(name) for name in _NUMBERS))

    def _named(self, name: str, kind: Any) -> Any:
        """Ids as text; whole numbers are written as such whatever their type, as `names_of` does."""
        pl, column = self._pl, self._pl.col(name)
        if not kind.is_float():
            return column.cast(pl.String)
        whole = (column == column.floor()) & (column.abs() < EXACT)
        return (
            pl.when(whole).then(column.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(column.cast(pl.String))
        )

    def _attention(self) -> str:
        files = self._files()
        said = self._pl.read_parquet_metadata(files[0]).get(_KEY) if len(files) == 1 else None
        return Flat().name if said is None else json.loads(said)["attention"]

    def _survey(self, rows: Any) -> None:
        """Ids, answers, how many rows each entity has, and whether all values are such as they may be."""
        pl = self._pl
        # What write_ledger wrote has a row without an entity for each answer.
        own = pl.col("entity").is_not_null()
        checked = rows.filter(own).select(
            pl.len().alias("rows"),
            *((~pl.col(name).is_finite()).fill_null(True).sum().alias(f"gaps {name}") for name in _NUMBERS[:-1]),
            *(pl.col(name).is_null().sum().alias(f"gaps {name}") for name in IDS[1:]),
            (~pl.col("hit").is_in([0.0, 1.0])).sum().alias("hits"),
            (~pl.col("status").is_in([0.0, 1.0, 2.0])).sum().alias("statuses"),
            (pl.col("seed") != pl.col("seed").floor()).sum().alias("seeds"),
            ((pl.col("merit") < 0) | (pl.col("exposure") < 0)).sum().alias("negative"),
        )
        said = checked.collect(engine="streaming").row(0, named=True)
        self._check(said)
        self._count = int(said["rows"])
        counts = rows.filter(own).group_by("entity").len().collect(engine="streaming").sort("entity")
        self._sizes = counts["len"].to_numpy()
        answers = rows.group_by("arm", "query", "seed").agg(
            pl.col("status").min().alias("status"), pl.col("status").max().alias("most"), pl.col("unresolved").max()
        )
        told = answers.collect(engine="streaming").sort("arm", "query", "seed")
        if (told["status"] != told["most"]).any():
            raise InputError("rows of one answer have different statuses: an answer is ok, refused or an error")
        ids = {name: tuple(told[name].unique().sort().to_list()) for name in IDS[1:]}
        self.entities, self.queries, self.arms = tuple(counts["entity"].to_list()), ids["query"], ids["arm"]
        found = {name: told[name].cast(pl.Enum(ids[name])).to_physical() for name in ids}
        found |= {name: told[name] for name in ("seed", "status")}
        found["unresolved"] = told["unresolved"].fill_null(float("nan"))
        self._answers: Mapping[str, NDArray[Any]] = {n: found[n].to_numpy().astype(t) for n, t in ANSWER_TYPES.items()}

    def _check(self, said: Mapping[str, int]) -> None:
        if not said["rows"]:
            raise InputError(f"{self._path} has no rows")
        for name in (*IDS[1:], *_NUMBERS[:-1]):
            if many := said[f"gaps {name}"]:
                raise InputError(
                    f"{self._path}: column {name} has {many} values that are missing, infinite or no numbers: drop "
                    "those rows"
                )
        advice = {
            "hits": "hit has values other than 0 and 1: write whether it was mentioned; grades go to score",
            "statuses": f"status has others than {', '.join(STATUSES)}: write one of them, or 0, 1 or 2",
            "seeds": "seed has fractions: write whole numbers",
            "negative": "merit and exposure are never below 0: write 0 for who is not relevant or not mentioned",
        }
        for name, text in advice.items():
            if many := said[name]:
                raise InputError(f"{self._path}: {text} ({many} rows)")

    def _split(self, rows: Any) -> None:
        """Write rows by parts, as places in the lists of ids."""
        pl = self._pl
        # Entities in order, as many in a part as have at_once rows.
        start = np.cumsum(self._sizes) - self._sizes
        part = np.minimum(start, self._count - 1) // self._at_once
        part = np.unique(part, return_inverse=True)[1]
        self.parts = int(part.max()) + 1
        lists = {"entity": self.entities, "query": self.queries, "arm": self.arms}
        code = {name: pl.col(name).cast(pl.Enum(list(ids))).to_physical() for name, ids in lists.items()}
        small = {
            "entity": pl.Int32,
            "query": pl.Int32,
            "arm": pl.Int16,
            "seed": pl.Int64,
            "hit": pl.Boolean,
            "status": pl.Int8,
        }
        columns = [each.cast(small[name]) for name, each in code.items()]
        columns += [pl.col(name).cast(small.get(name, pl.Float64)) for name in _NUMBERS[:-1]]
        place = pl.lit(pl.Series("part", part.astype(np.uint32))).gather(pl.col("entity").cast(pl.UInt32))
        written = rows.filter(pl.col("entity").is_not_null()).select(columns).with_columns(part=place)
        # Each part has a group of rows in memory until it is full.
        group = max(1_000, _HELD // self.parts)
        target = pl.PartitionBy(self.folder, key="part", include_key=False)
        written.sink_parquet(target, compression="lz4", row_group_size=group)
