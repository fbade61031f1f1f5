"""Erasers inside models: put on and taken off again as hooks, without touching a weight."""

from efface._lazy import attach

__getattr__, __dir__ = attach(__name__, {"ConceptScrubber": "efface.scrubbing.concept_scrubber"}, globals())
