"""All hostile input for so many minutes: `python -m tests.fuzz [--minutes 10] [--seed 0]`; 1 if anything is a fault."""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import calls, files, scales
from tests.fuzz.outcome import Tally

MEMORY = 12 * 2**30
"""Bytes of address space after which a call blows memory up."""


def main(arguments: list[str] | None = None) -> int:
    """Scales, then calls for two fifths of the time, then files; these for a minute at least once they are made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    end = time.monotonic() + 60 * given.minutes
    sized, loaded = Tally(), Tally()
    scales.run(sized, seed=given.seed)
    print(sized.report("scales"), flush=True)
    called = calls.run(24 * given.minutes, seed=given.seed)
    print(called.report(f"calls of {len(calls.doors())} doors"), flush=True)
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        saved = files.every(Path(folder))
        end = max(end, time.monotonic() + 60)
        while time.monotonic() < end:
            files.mutate(rng.choice(saved), loaded, share=0.02, rng=rng, end=end)
    print(loaded.report(f"files, {len(saved)} folders"), flush=True)
    return int(any(tally.faults for tally in (sized, loaded, called)))


if __name__ == "__main__":
    sys.exit(main())
