"""One thread, and one profile for property tests: no deadlines, since a machine with two busy cores meets none."""

import os

# Before torch is imported. Tensors here are small, and threads that wait for one another on busy cores cost minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# CI tries the same examples each time, so that it fails for what changed; elsewhere every run tries new ones.
settings.register_profile("efface", deadline=None, derandomize=bool(os.environ.get("CI")), database=None)
settings.load_profile("efface")
