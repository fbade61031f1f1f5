"""What a pipeline offers, by role: the one view that every eraser and audit of pipelines stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._progress import progress
from efface.core.concept import Concept
from efface.core.doors import check_call
from efface.core.site import Site
from efface.pipelines.attention import ContextEmbedder, KeyValueLayer
from efface.pipelines.components import Components
from efface.pipelines.concept_check import check_concept
from efface.pipelines.denoiser_call import DenoiserCall
from efface.pipelines.denoising import Denoising
from efface.pipelines.embedding import PromptEmbedding, Slot
from efface.pipelines.encoding import Encoding
from efface.pipelines.guidance import Guidance, Prediction
from efface.pipelines.noising import Noising
from efface.pipelines.prompts import PromptEncoder, paired
from efface.pipelines.sampling import Samples, sample_batch
from efface.pipelines.soft_words import Words
from efface.pipelines.stepping import Change, guided_prediction, stepped
from efface.pipelines.steps import Inside, Rule, Swap, install_inside, install_rule, install_swap
from efface.pipelines.text_edits import TextEdit
from efface.pipelines.tokens import Tokens, WordRows


class PipelineView:
    """A diffusers pipeline by role.

    Nothing of the pipeline is copied or changed: the view holds the pipeline and what was found out about it, and what
    it runs leaves no trace, also when it fails, and whatever other threads do. What costs a forward pass is found out
    when it is first asked for, once: make a view once and pass it on.

    Does not guarantee: that a pipeline which encodes and samples as described also uses its text in no other way;
    LoRA or IP-Adapter layers are not looked at.

    Attributes:
        pipe: The pipeline.
        components: Its parts by role.
        text: Its text side.
        denoising: Its denoiser's side.
        words: The tokens that its text encoders know, and their vectors, which can be put in another's place.
    """

    def __init__(self, pipe: Any, components: Components, probe: Mapping[str, Any]) -> None:
        check_call(PipelineView.__init__, locals())
        self.pipe, self.components = pipe, components
        self.text = PromptEncoder(pipe, components)
        self.denoising = Denoising(self.text, probe)
        self.words = Words(self.text)

    @classmethod
    def of(cls, pipe: Any, *, probe: Mapping[str, Any] | None = None, **roles: Any) -> PipelineView:
        """The view of a pipeline.

        Args:
            pipe: A diffusers pipeline, or a view, which is returned as it is.
            probe: Arguments of the pipeline's call for the small pass that measures where text enters, if 64 x 64
                pixels (and 9 frames) do not suit it.
            **roles: A component's name or the component itself for a role, where the search finds nothing or the
                wrong thing: `text_encoders`, `tokenizers` (lists), `denoiser`, `vae`, `scheduler`.

        Raises:
            InputError: If a role is missing; the text says how to give it.
        """
        check_call(PipelineView.of, locals())
        if isinstance(pipe, PipelineView):
            return pipe
        return cls(pipe, Components.of(pipe, roles), {} if probe is None else probe)

    def __repr__(self) -> str:
        return (
            f"PipelineView({type(self.pipe).__name__}: {', '.join(self.components.text_encoders)} -> "
            f"{', '.join(self.components.denoisers)}, {self.prediction_type}, {self.guidance})"
        )

    # ------------------------------------------------------------------------------------------- its parts

    @property
    def text_encoders(self) -> Mapping[str, nn.Module]:
        """Name -> text encoder."""
        return self.components.text_encoders

    @property
    def tokenizers(self) -> Mapping[str, Any]:
        """Name -> tokenizer."""
        return self.components.tokenizers

    @property
    def denoiser(self) -> nn.Module:
        """The model that predicts; of two, the first."""
        return next(iter(self.components.denoisers.values()))

    @property
    def vae(self) -> nn.Module:
        """The autoencoder."""
        return self.components.vae

    @property
    def scheduler(self) -> Any:
        """The sampler that the pipeline has now."""
        return self.components.scheduler_of(self.pipe)

    @property
    def encoding(self) -> Encoding:
        """Its own way to encode prompts."""
        return self.text.encoding

    @property
    def prediction_type(self) -> Prediction:
        """What its denoiser predicts: `"epsilon"`, `"v_prediction"`, `"sample"` or `"flow"`."""
        return self.denoising.prediction_type

    @property
    def guidance(self) -> Guidance:
        """How it strengthens its text."""
        return self.denoising.guidance

    @property
    def noising(self) -> Noising:
        """How noise is put into clean latents, and what the denoiser would say of them if it were right."""
        return Noising(self.scheduler, self.prediction_type)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return self.pipe._execution_device

    # ------------------------------------------------------------------------------------------- text

    @property
    def layout(self) -> tuple[Slot, ...]:
        """Where each text encoder's output lies in an embedding."""
        return self.text.layout

    def tokens(self, prompt: str, **options: Any) -> dict[str, Tokens]:
        """Text encoder -> the tokens of a prompt, exactly as the pipeline makes them.

        Args:
            prompt: The prompt.
            **options: Further arguments of the pipeline's `encode_prompt`.
        """
        check_call(PipelineView.tokens, locals())
        return {tokens.encoder: tokens for tokens in self.text.tokenization([prompt], **options)[0]}

    def token_rows(self, prompt: str, word: str, **options: Any) -> dict[str, WordRows]:
        """Text encoder -> rows of a word or phrase in the encoder and in the sequence.

        Args:
            prompt: The prompt.
            word: A word or phrase of it, whatever its case.
            **options: Further arguments of the pipeline's `encode_prompt`.

        Raises:
            InputError: If the word is not in the prompt, or beyond the window of every text encoder.
        """
        check_call(PipelineView.token_rows, locals())
        found = {}
        for name, tokens in self.tokens(prompt, **options).items():
            if rows := tokens.rows(word):
                found[name] = WordRows(name, rows, tokens.sequence_rows(rows))
        if not found:
            raise InputError(f"{word!r} is not a word or phrase of the prompt {prompt!r} within the window")
        return found

    def check_prompts(
        self, prompts: Sequence[str], *, truncate: bool = False, allow_unknown: bool = False, **options: Any
    ) -> None:
        """Refuse prompts that the pipeline would silently cut off or not understand.

        Args:
            prompts: The prompts.
            truncate: Allow text encoders to lose the end of a prompt.
            allow_unknown: Allow words that a tokenizer replaces by its unknown token.
            **options: Further arguments of the pipeline's `encode_prompt`.

        Raises:
            InputError: For the first such prompt.
        """
        check_call(PipelineView.check_prompts, {"truncate": truncate, "allow_unknown": allow_unknown})
        self.text.check(prompts, truncate=truncate, allow_unknown=allow_unknown, **options)

    def check_concept(self, concept: Concept) -> None:
        """Refuse a concept that the pipeline cannot read.

        Args:
            concept: Its words, and the prompts that they go into.

        Raises:
            InputError: If a word is unknown to one of its tokenizers, or a prompt is longer than its window.
        """
        check_call(PipelineView.check_concept, locals())
        check_concept(self.text.tokenization, concept)

    def encode(
        self,
        prompts: str | Sequence[str],
        *,
        negative: str | Sequence[str] | None = None,
        truncate: bool = False,
        allow_unknown: bool = False,
        grad: bool = False,
        **options: Any,
    ) -> PromptEmbedding:
        """Encode prompts as the pipeline's call would.

        Args:
            prompts: One or several.
            negative: A negative prompt for all of them or one for each; None for what the pipeline takes by itself.
            truncate: Allow the end of a prompt to be lost.
            allow_unknown: Allow unknown words.
            grad: Keep gradients to the text encoders.
            **options: Further arguments of the pipeline's `encode_prompt`; texts for some text encoders alone
                (`prompt_2`, `negative_prompt_2`), one for all prompts or one for each.

        Returns:
            A batch of n prompts; `negative` in it is None if the pipeline's guidance has no negative branch and none
            was given.

        Raises:
            InputError: For a prompt too long or of unknown words, or negative prompts of another number.
        """
        check_call(PipelineView.encode, {"truncate": truncate, "allow_unknown": allow_unknown, "grad": grad})
        texts, negatives = paired(prompts, negative)
        more = self._more_texts(options, len(texts))
        checked = [*texts, *(negatives or []), *(text for each in more.values() for text in each)]
        options = {name: value for name, value in options.items() if name not in more}
        self.check_prompts(checked, truncate=truncate, allow_unknown=allow_unknown, **options)
        with torch.set_grad_enabled(grad):
            return self.text.encode(texts, negatives, **options, **more)

    def _more_texts(self, given: Mapping[str, Any], n: int) -> dict[str, list[str]]:
        """Texts for some text encoders alone, one for each of n prompts."""
        found = {name: given[name] for name in self.encoding.more_texts if given.get(name) is not None}
        for name, texts in found.items():
            found[name] = [texts] * n if isinstance(texts, str) else list(texts)
            if len(found[name]) != n:
                raise InputError(f"{len(found[name])} texts in {name} for {n} prompts: give one, or one for each")
        return found

    @property
    def example(self) -> PromptEmbedding:
        """An embedding of one prompt of which only the shapes mean something; it costs no pass of its own."""
        return self.text.tokenization.example

    def check_embedding(self, embedding: PromptEmbedding) -> None:
        """Refuse an embedding that this pipeline cannot have made.

        Raises:
            InputError: If a tensor is missing or of another width.
        """
        check_call(PipelineView.check_embedding, locals())
        self.text.check_embedding(embedding)

    def check_fit(self, marks: Mapping[str, str]) -> None:
        """Refuse text encoders, or options of the call that is being edited, that an erasure was not fitted to.

        Args:
            marks: Text encoder -> its fingerprint at the fit.

        Raises:
            InputError: If one has other weights now, or the call takes another layer of it (`clip_skip`).
        """
        check_call(PipelineView.check_fit, locals())
        self.text.check_fit(marks)

    @contextmanager
    def edited(self, edit: TextEdit) -> Iterator[None]:
        """Edit every prompt that the pipeline encodes, for the length of a block.

        Args:
            edit: Takes a `PromptEmbedding`, gives what replaces it.
        """
        remove = self.install_edit(edit)
        try:
            yield
        finally:
            remove()

    def install_edit(self, edit: TextEdit, *, once: bool = True) -> Callable[[], None]:
        """The same until the function that is returned is called.

        Args:
            edit: Takes a `PromptEmbedding`, gives what replaces it.
            once: Not again for embeddings that `encode` made while the edit was on.
        """
        check_call(PipelineView.install_edit, locals())
        return self.text.install_edit(edit, once=once)

    # ------------------------------------------------------------------------------------------- denoiser

    def prepare(
        self, embedding: PromptEmbedding, *, seeds: Sequence[int] | None = None, steps: int = 1, **call: Any
    ) -> DenoiserCall:
        """What the pipeline would give its denoiser at the first step, without guidance: latents, timesteps, arguments.

        Args:
            embedding: n prompts.
            seeds: A seed for each; None for 0.
            steps: Steps of the scheduler.
            **call: Further arguments of the pipeline's call: `height`, `width`, `num_frames`, `latents`.
        """
        check_call(PipelineView.prepare, locals())
        return self.denoising.prepare(embedding, seeds=seeds, steps=steps, **call)

    def denoise(
        self, latents: Tensor, t: Any, embedding: PromptEmbedding, *, denoiser: str | None = None, **call: Any
    ) -> Tensor:
        """The denoiser's prediction, as it is: no guidance, no rule, no scaling of latents, no step. Gradients flow.

        Args:
            latents: (n, ...) as the pipeline's loop holds them, such as `view.prepare(...).latents`.
            t: The timestep as the scheduler writes it, a number or (n,).
            embedding: n prompts, or one for all.
            denoiser: Name of the denoiser, if there are several (Wan 2.2); None for the one of the first step.
            **call: Further arguments of the pipeline's call. Films need `num_frames`, and packed latents (FLUX,
                LTX-Video) `height` and `width`, where these are not the pipeline's default.

        Returns:
            Of the shape of `latents`; a learned variance (PixArt) is left out.
        """
        check_call(PipelineView.denoise, locals())
        return self.denoising.predict(latents, t, embedding, denoiser=denoiser, **call)

    def key_value_layers(self) -> list[KeyValueLayer]:
        """The layers that make keys and values of text, in the order of the denoiser."""
        return list(self.denoising.entries[0])

    def context_embedders(self) -> list[ContextEmbedder]:
        """The layers that first read the embedding, where these are not keys and values themselves."""
        return list(self.denoising.entries[1])

    def key_value_inputs(
        self,
        embedding: PromptEmbedding,
        *,
        latents: Tensor | None = None,
        t: Any = None,
        denoiser: str | None = None,
        **call: Any,
    ) -> dict[str, Tensor]:
        """Path of each key or value layer -> (n, rows, width): the rows of text that it is given.

        In plain cross-attention they depend on the prompt alone; in joint attention (SD3, FLUX, CogVideoX,
        HunyuanVideo) on latents and time too.

        Args:
            embedding: n prompts.
            latents: Latents to go with them; None for small ones of seed 0.
            t: The timestep; None for the scheduler's first, with `latents=None` only.
            denoiser: Name of the denoiser, if there are several; None for the first.
            **call: Further arguments of the pipeline's call.

        Raises:
            InputError: If latents come without a timestep.
        """
        check_call(PipelineView.key_value_inputs, locals())
        return self.denoising.key_value_inputs(embedding, latents, t, denoiser, call)

    @contextmanager
    def guided(self, rule: Rule) -> Iterator[None]:
        """Change what the denoiser predicts for the prompts, before guidance, for the length of a block.

        Args:
            rule: Takes a `Step`, gives what replaces its `cond`, or None.
        """
        check_call(PipelineView.guided, locals())
        remove = self.install_rule(rule)
        try:
            yield
        finally:
            remove()

    def install_rule(self, rule: Rule) -> Callable[[], None]:
        """The same until the function that is returned is called."""
        check_call(PipelineView.install_rule, locals())
        return install_rule(self.text, rule)

    def install_swap(self, swap: Swap) -> Callable[[], None]:
        """Give the denoiser other rows of text at some steps, until the function that is returned is called.

        Args:
            swap: Takes the index of a step, the prompts and their rows; gives what replaces the rows, or None.
        """
        check_call(PipelineView.install_swap, locals())
        return install_swap(self.text, swap)

    @contextmanager
    def stepped(self, change: Change) -> Iterator[None]:
        """Change the latents that its scheduler goes to, step by step, for the length of a block.

        Args:
            change: Takes a `SchedulerStep`, whose prediction has guidance and all edits in it; gives what the next
                latents are, or None.
        """
        check_call(PipelineView.stepped, locals())
        with stepped(self.pipe, self.scheduler, change):
            yield

    def guided_prediction(
        self,
        latents: Tensor,
        at: int,
        embedding: PromptEmbedding,
        *,
        steps: int,
        guidance: float | None = None,
        **call: Any,
    ) -> Tensor:
        """What its scheduler would be given at a step of a sampling: with guidance and all edits. Gradients flow.

        Edits that remember predictions of earlier steps remember that nothing was predicted.

        Args:
            latents: (n, ...) as the pipeline's loop holds them at that step.
            at: Which step, from 0.
            embedding: n prompts, with their negative branch where the pipeline has one.
            steps: Steps of the scheduler.
            guidance: Scale of guidance; None for the pipeline's default.
            **call: Further arguments of the pipeline's call, as for `denoise`.

        Raises:
            InputError: If there is no such step.
        """
        check_call(PipelineView.guided_prediction, locals())
        size = {**self.denoising.size_of(latents), **call}
        return guided_prediction(self.denoising, embedding, latents, at, steps=steps, guidance=guidance, **size)

    def install_inside(self, part: str, edits: Mapping[Site, Inside]) -> Callable[[], None]:
        """Edit states inside a denoiser, where it is asked for prompts in the pipeline's calls.

        Args:
            part: Name of the denoiser.
            edits: Site that gives them -> takes the states of the whole batch and a `following.Given`, which says
                which of its branches are for the prompts; gives what replaces them, or None.
        """
        check_call(PipelineView.install_inside, locals())
        return install_inside(self.text, part, edits)

    # ------------------------------------------------------------------------------------------- samples

    def sample(
        self,
        prompts: str | Sequence[str] | PromptEmbedding,
        seeds: int | Sequence[int],
        *,
        batch_size: int = 8,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | Sequence[str] | None = None,
        edit: TextEdit | None = None,
        truncate: bool = False,
        allow_unknown: bool = False,
        latent: bool = False,
        **call: Any,
    ) -> Tensor:
        """Pictures or films by the pipeline's own call, one generator a sample.

        At equal seeds and batches they are bit for bit what `pipe(...)` gives with `generator=` a list of
        `torch.Generator().manual_seed(seed)`. Noise is drawn on the CPU, so that a seed means the same on each device;
        in other batches the products round differently.

        Args:
            prompts: Prompts, or prompts as encoded by `encode`.
            seeds: A seed for each; or as many as you like for one prompt.
            batch_size: How many at a time.
            steps: Steps of the scheduler; None for the pipeline's default, as with what follows.
            guidance: Scale of guidance.
            negative: Negative prompts.
            edit: Edit of the prompts, for these samples only.
            truncate: Allow the end of a prompt to be lost.
            allow_unknown: Allow unknown words.
            latent: Give latents, not pixels.
            **call: Further arguments of the pipeline's call: `height`, `width`, `num_frames`, `true_cfg_scale`, ...

        Returns:
            (n, 3, height, width) or (n, frames, 3, height, width) in [0, 1], on the CPU, float32.

        Raises:
            InputError: If seeds are not as many as prompts, an argument is unknown, or a prompt cannot be encoded.
        """
        check_call(PipelineView.sample, {k: v for k, v in locals().items() if k not in ("prompts", "negative")})
        given = self._call(steps, guidance, call)
        checks = {"truncate": truncate, "allow_unknown": allow_unknown}
        options = {name: value for name, value in given.items() if name in self.encoding.options}
        more = self._more_texts(given, len([seeds] if isinstance(seeds, int) else seeds))
        given = {name: value for name, value in given.items() if name not in self.encoding.more_texts}
        samples = Samples.of(prompts, seeds, negative)
        if isinstance(samples.prompts, PromptEmbedding):
            self.check_embedding(samples.prompts)
        found: list[Tensor] = []
        start = 0
        with progress("sampling", len(samples), unit="samples") as bar:
            for batch in samples.batches(batch_size):
                embedding = batch.prompts
                if not isinstance(embedding, PromptEmbedding):
                    part = slice(start, start + len(batch))
                    own: dict[str, Any] = {name: texts[part] for name, texts in more.items()}
                    embedding = self.encode(embedding, negative=batch.negative, **checks, **options, **own)
                start += len(batch)
                if edit is not None:
                    embedding = edit(embedding) or embedding
                output = {"output_type": "latent" if latent else "pt"}
                found.append(sample_batch(self.text, embedding, batch.seeds, given | output))
                bar.update(len(batch))
        return torch.cat(found)

    def _call(self, steps: int | None, guidance: float | None, call: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the pipeline's call, as it names them."""
        if guidance is not None and self.guidance.argument is None:
            raise InputError(f"{type(self.pipe).__name__} has no guidance scale: leave guidance out")
        named = {"num_inference_steps": steps, self.guidance.argument: guidance}
        given = {**{name: value for name, value in named.items() if name and value is not None}, **call}
        self.denoising.check_arguments(given)
        return given
