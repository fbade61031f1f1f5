"""Timing, in interleaved repeats, so that a noisy machine disturbs all contestants alike; memory; tables."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from efface.audit.finding import Finding


def interleaved(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Best time of each in seconds; one warm-up each, then round after round."""
    best = dict.fromkeys(contestants, float("inf"))
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def once(run: Callable[[], object]) -> float:
    """Time of a single run in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_memory(setup: str, body: str) -> float:
    """MiB by which the resident set of a fresh process peaks above what it is after `setup`."""
    # VmHWM starts anew with the process; ru_maxrss would remember the parent's peak.
    code = f"""
def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024
{setup}
before = status("VmRSS")
{body}
print(status("VmHWM") - before)
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    return float(out.stdout.split()[-1])


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def cell(finding: Finding, scale: float = 100.0, digits: int = 1) -> str:
    """A finding with its interval, if it has one; shares in per cent by default."""
    if not finding.is_scored:
        return finding.status
    value = f"{scale * finding.value:.{digits}f}"
    if finding.low is None or finding.high is None:
        return value
    return f"{value} [{scale * finding.low:.{digits}f}, {scale * finding.high:.{digits}f}]"
