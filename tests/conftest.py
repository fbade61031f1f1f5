"""One profile for property tests: no deadlines, since a machine with two busy cores meets none."""

from hypothesis import settings

settings.register_profile("efface", deadline=None)
settings.load_profile("efface")
