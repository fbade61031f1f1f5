"""Erasers inside text-to-image and text-to-video pipelines."""

from efface._lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Cgce": "efface.diffusion.text.cgce.erasure",
        "NegativePromptErasure": "efface.diffusion.guidance.negative_prompt",
        "PromptProjection": "efface.diffusion.text.projection",
        "SafeLatentDiffusion": "efface.diffusion.guidance.sld",
        "Safree": "efface.diffusion.text.safree.erasure",
        "SemanticSurgery": "efface.diffusion.text.semantic_surgery.erasure",
        "WeightErasure": "efface.diffusion.weights.erasure",
    },
    globals(),
)
