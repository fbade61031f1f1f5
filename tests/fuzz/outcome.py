"""What a hostile call ended in: a value, one of our errors, or a fault, and where."""

from __future__ import annotations

import contextlib
import io
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from efface import EffaceError

SECONDS = 20.0
"""Of the processor; what takes longer hangs."""

OURS = (EffaceError, OSError)
"""Errors that say what is wrong with the input; those of the system name the file."""

_PACKAGES = ("efface", "efface_worlds")


class Hang(BaseException):
    """Raised by the alarm; no `except Exception` swallows it."""


@dataclass(frozen=True)
class Fault:
    """An error that is not ours.

    Attributes:
        place: The innermost line of ours.
        error: Its type.
        text: Its message, cut.
        what: What was done.
    """

    place: str
    error: str
    text: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.error}: {self.text}\n    {self.what}"


@dataclass
class Tally:
    """Counts what calls ended in."""

    good: int = 0
    refused: int = 0
    faults: list[Fault] = field(default_factory=list)

    def __len__(self) -> int:
        return self.good + self.refused + len(self.faults)

    def take(
        self, what: str, call: Callable[[], Any], *, ours: Callable[[Exception], bool] = lambda error: False
    ) -> Any:
        """Call it, and count; the value, or None.

        Args:
            what: What is done, for the report.
            call: Does it.
            ours: Whether an error that is none of efface's is right all the same.
        """
        try:
            with limited(), quiet():
                value = call()
        except OURS:
            self.refused += 1
        except Exception as error:
            if ours(error):
                self.refused += 1
            else:
                self.faults.append(_fault(error, what))
        except (Hang, SystemExit, GeneratorExit) as error:
            self.faults.append(_fault(error, what))
        else:
            self.good += 1
            return value
        return None

    def check(self, what: str, call: Callable[[], Any]) -> None:
        """Call it, and count it only if it fails.

        Args:
            what: What is done, for the report.
            call: Does it.
        """
        try:
            with limited(), quiet():
                call()
        except (Exception, Hang) as error:
            self.faults.append(_fault(error, what))

    def report(self, title: str) -> str:
        """Counts, and each place once, with an example."""
        places = Counter((fault.place, fault.error) for fault in self.faults)
        lines = [f"{title}: {len(self)} tried, {self.good} good, {self.refused} refused, {len(self.faults)} faults"]
        for (place, error), count in places.most_common():
            first = next(f for f in self.faults if (f.place, f.error) == (place, error))
            lines.append(f"  {count:5d} x {first}")
        return "\n".join(lines)


def _fault(error: BaseException, what: str) -> Fault:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if {*Path(f.filename).parts} & {*_PACKAGES}]
    ours = [f for f in frames if "tests" not in Path(f.filename).parts]
    place = "outside" if not ours else f"{'/'.join(Path(ours[-1].filename).parts[-3:])}:{ours[-1].lineno}"
    return Fault(place, type(error).__name__, " ".join(str(error).split())[:160], what[:400])


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Interrupt what hangs."""

    def ring(_signal: int, _frame: Any) -> None:
        raise Hang(f"longer than {seconds:g} s")

    before = {sign: signal.signal(sign, ring) for sign in (signal.SIGPROF, signal.SIGALRM)}
    # Seconds of the processor, as others may have it; and as many of the clock as no call sleeps.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 15 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for sign, handler in before.items():
            signal.signal(sign, handler)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and output."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
