"""One thread, what workers share, and one profile for property tests: no deadlines, which busy cores do not meet."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

# Before torch is imported. Tensors here are small, and threads that wait for one another on busy cores cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.sharing import Shared

# Shells start jobs in the background with interrupts ignored; tests raise them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# CI tries the same examples each time, so that it fails for what changed; elsewhere every run tries new ones.
settings.register_profile("efface", deadline=None, derandomize=bool(os.environ.get("CI")), database=None)
settings.load_profile("efface")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Shared:
    """Makes what is costly once for all workers of this run; each of them has its folder in that of the run."""
    from tests.sharing import Shared  # not before: lines of efface that are run by now are not counted as covered

    folder = tmp_path_factory.getbasetemp()
    return Shared(folder.parent if hasattr(request.config, "workerinput") else folder)


def pytest_collection_finish() -> None:
    """What is imported by now lives as long as the run: the collector need not go through it every time."""
    gc.collect()
    gc.freeze()
