"""Erasers inside text-to-image and text-to-video pipelines."""

from efface._lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Anchors": "efface.diffusion.anchors.anchors",
        "Cgce": "efface.diffusion.text.cgce.erasure",
        "NegativePromptErasure": "efface.diffusion.guidance.negative_prompt",
        "PromptProjection": "efface.diffusion.text.projection",
        "SafeLatentDiffusion": "efface.diffusion.guidance.sld",
        "Safree": "efface.diffusion.text.safree.erasure",
        "SemanticSurgery": "efface.diffusion.text.semantic_surgery.erasure",
        "fixed_anchor": "efface.diffusion.anchors.fixed",
        "select_anchors": "efface.diffusion.anchors.selection",
        "select_for_each": "efface.diffusion.anchors.selection",
        "soft_anchor": "efface.diffusion.anchors.soft",
        "trace_anchor": "efface.diffusion.anchors.tracing",
        "wordnet_relations": "efface.diffusion.anchors.relations",
        "WeightErasure": "efface.diffusion.weights.erasure",
        "fused": "efface.diffusion.weights.fusion",
        "save_lora": "efface.diffusion.weights.export",
        "save_pipeline": "efface.diffusion.weights.export",
    },
    globals(),
)
