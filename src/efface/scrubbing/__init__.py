"""Erasers inside models: fitted site after site, put on by hooks, or folded into the weights."""

from efface._lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Batches": "efface.scrubbing.batches",
        "ConceptScrubber": "efface.scrubbing.concept_scrubber",
        "Folded": "efface.scrubbing.fold",
        "IGNORE": "efface.scrubbing.token_labels",
        "RandomSubspace": "efface.scrubbing.controls",
        "ScrubConfig": "efface.scrubbing.config",
        "Scrubber": "efface.scrubbing.scrubber",
        "Site": "efface.core.site",
        "collect": "efface.scrubbing.collecting",
        "find_roles": "efface.scrubbing.sites",
        "find_sites": "efface.scrubbing.sites",
        "foldable": "efface.scrubbing.fold",
        "labels_from_characters": "efface.scrubbing.token_labels",
        "labels_from_spans": "efface.scrubbing.token_labels",
        "labels_from_tagged": "efface.scrubbing.token_labels",
        "labels_from_words": "efface.scrubbing.token_labels",
        "nnsight_edited": "efface.scrubbing.adapters",
        "Plan": "efface.scrubbing.planning",
        "plan": "efface.scrubbing.fitting",
        "scrub": "efface.scrubbing.fitting",
        "transformer_lens_hooks": "efface.scrubbing.adapters",
    },
    globals(),
)
