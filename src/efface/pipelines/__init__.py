"""What a diffusers pipeline offers, by role: prompts, tokens, attention, latents, sampling. Nothing here erases."""

from efface._lazy import attach

__getattr__, __dir__ = attach(
    __name__,
    {
        "Guidance": "efface.pipelines.guidance",
        "KeyValueLayer": "efface.pipelines.attention",
        "PipelineView": "efface.pipelines.view",
        "PromptEmbedding": "efface.pipelines.embedding",
    },
    globals(),
)
