"""Erasers inside text-to-image and text-to-video pipelines, and the view of a pipeline that they stand on."""

from efface._lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Erasure": "efface.diffusion.erasure",
        "ErasureSpec": "efface.diffusion.spec",
        "Guidance": "efface.diffusion.kinds",
        "KeyValueLayer": "efface.diffusion.attention",
        "PipelineView": "efface.diffusion.pipeline",
        "PromptEmbedding": "efface.diffusion.embedding",
        "erase": "efface.diffusion.erasing",
        "load_erasure": "efface.diffusion.erasing",
    },
    globals(),
)
