"""One profile for property tests: no deadlines, since a machine with two busy cores meets none."""

import os

from hypothesis import settings

# CI tries the same examples each time, so that it fails for what changed; elsewhere every run tries new ones.
settings.register_profile("efface", deadline=None, derandomize=bool(os.environ.get("CI")), database=None)
settings.load_profile("efface")
