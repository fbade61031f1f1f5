"""Changes that were meant: pattern of keys -> why. What they give now is pinned beside the record."""

_CONTIGUOUS = (
    "erasers lie contiguous in memory, as they do when read from a file: products round otherwise in the last digit; "
    "2127722 gives the same for an eraser read from a file"
)
_AREA = "one area under the curve for all rooms, whose sums were in another order in the gate's audit: the last digit"
_COUNTS = "what fired is counted by what is on, anew each time, and no longer by the erasure for as long as it lives"
_MARK = "a fingerprint has checksums of each part, and in half precision, by which its copies are the same model"
_DRAWS = "a control's draws after the first have seeds by the number of their call, so that one can be made again"
_JUDGES = "judges see each of two objects, say when they cannot say, and were trained anew; audits count that apart"
_PARTS = "Semantic Surgery reads each text encoder and each pooled vector apart, each with a gate of its own"
_EDIT = "the edit of a report is the one made, and no longer that of the shrunk covariance"
_UNITS = (
    "on few rows columns have spreads far apart: correlations are shrunk, so that no column's unit decides for others"
)

_JUDGED = (
    "probes choose their penalty by their folds; what keeps a number from being taken at its word is said, and changes "
    "its verdict; histograms are of what the probe makes of the rows"
)
_HALVES = "with fit, erasers learn from one half of a training fold and probes from the other, which they have not seen"
_WIDTH = "no interval is a point, nor shorter than Wilson's; that of H has every part at the ends of its own"
_LEFT = "reports of oracle erasers say, as those of the others, which correlation the eraser leaves as it is stored"
_SITES = "what is left at a site is measured with all erasers on, and is no longer what the fit of that site expects"
_SIDE = (
    "what efface fit writes beside an eraser has means and ranges of the features, and values of text that was spread"
)

MEANT: dict[str, str] = {
    "oracle/*/report": _LEFT,
    "streaming/OracleFitter/*/report": _LEFT,
    "*/words": "prose: reports say more, and by which versions and call they were made",
    "leace/method orth/applied": _CONTIGUOUS,
    "orth/*/applied": _CONTIGUOUS,
    "mean_difference/*/applied": _CONTIGUOUS,
    "composing/intersections/applied": _CONTIGUOUS,
    "composing/joined/applied": _CONTIGUOUS,
    "scrub_llama/facts/fingerprint": _MARK,
    "scrub_llama/summary": _SITES,
    "scrub_llama/random control/outputs again": _DRAWS,
    "collecting/random subspace, again": _DRAWS,
    "semantic_surgery/sdxl/*": _PARTS,
    "semantic_surgery/flux/*/scores": _PARTS,
    "negative_prompt/shapes/beside one's own/fired": _COUNTS,
    "audit_gate/two concepts/findings": _AREA,
    "audit_gate/two concepts/numbers": _AREA,
    "worlds/judge *": _JUDGES,
    "audit_pipeline/semantic-surgery/*": _JUDGES,
    "audit_pipeline/negative-prompt/*": _WIDTH,
    "command_line/audit/findings": _HALVES,
    "audit_vectors/fitted inside/*": _HALVES,
    "audit_vectors/a number/*": _HALVES,
    "audit_vectors/*": _JUDGED,
    "audit_sites/*": _JUDGED,
    "intervals/harmonic/interval": _WIDTH,
    "intervals/proportion, groups*": _WIDTH,
    "intervals/area/interval": _AREA,
    "intervals/detection/findings": _AREA,
    "intervals/detection/numbers": _AREA,
    "leace/few rows/shrunk/*": _UNITS,
    "leace/*/report": _EDIT,
    "composing/*/report": _EDIT,
    "streaming/LeaceFitter/*/report": _EDIT,
    "scrub_llama/site */report": _EDIT,
    "explaining/world/audit/*": _WIDTH,
    "command_line/*/side": _SIDE,
}
