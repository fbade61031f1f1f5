"""Erasers inside text-to-image and text-to-video pipelines."""

from efface._lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Erasure": "efface.diffusion.erasure",
        "ErasureSpec": "efface.diffusion.spec",
        "erase": "efface.diffusion.erasing",
        "load_erasure": "efface.diffusion.erasing",
    },
    globals(),
)
