"""Following one pipeline's calls: what its text encoders are asked, and what its denoiser is given of it.

What edits text stands on `encode_prompt`, and what changes predictions on the denoiser. Between them a pipeline does as
it likes: so whenever the denoiser is called, what it is given is compared with what was encoded, and what came in
another way is said. One look at a pipeline serves all edits that are on it.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from efface._errors import InputError, NotReachedWarning
from efface.core.hooks import Remove, edit_call, look_before, not_pickled, tell_saving
from efface.core.ledger import ledger_of
from efface.core.subjects import unwrapped
from efface.core.switch import switched_on
from efface.pipelines.calling import caller_of, calling
from efface.pipelines.components import Components, forward_parameters
from efface.pipelines.denoiser_call import pooled_of
from efface.pipelines.embedding import PromptEmbedding

ROWS = "encoder_hidden_states"
_PICTURES = ("image_embeds", "ip_adapter_image_embeds", "ip_hidden_states")
_PAUSED: ContextVar[bool] = ContextVar("paused", default=False)


@contextmanager
def unguided() -> Iterator[None]:
    """No rule is applied within the block: predictions are the denoiser's own."""
    with switched_on(_PAUSED):
        yield


def paused() -> bool:
    """Whether the denoiser is being called within `unguided`."""
    return _PAUSED.get()


@dataclass(frozen=True)
class Given:
    """What a denoiser is given in one call: branches of n samples, one behind the other.

    Attributes:
        embedding: The n prompts, as they are given.
        branches: How many there are.
        prompts: Which of them are for the prompts: two of three in perturbed attention guidance.
        negatives: Which are for the negative prompts.
        entered: What the module was given whose states are edited, `(branches n, ...)`; None if that is no tensor.
    """

    embedding: PromptEmbedding
    branches: int
    prompts: tuple[int, ...]
    negatives: tuple[int, ...]
    entered: Tensor | None = None

    def of_prompts(self, states: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """States of a pass, `(branches n, ...)`, in which those of the prompts are changed."""
        parts = list(states.chunk(self.branches))
        for i in self.prompts:
            parts[i] = change(parts[i])
        return torch.cat(parts)


def edits_of(pipe: Any) -> Mapping[int, Any]:
    """Number -> edit of text that is on a pipeline now; those of negative numbers only listen."""
    return getattr(vars(pipe).get("encode_prompt"), "edits", {})


def following_of(pipe: Any) -> Following:
    """What follows a pipeline that edits are on."""
    return vars(pipe)["encode_prompt"].following


class _Now(threading.local):
    """What one thread is doing.

    Attributes:
        encoding: Whether it is in `encode_prompt`.
        embedding: What was encoded for its sampling; None before.
        fresh: Encoded, and not a step made since.
        given: What the denoiser is given now; None if that is none of the pipeline's business.
        last: Rows of text that were looked at, with what was found.
    """

    encoding: bool = False
    embedding: PromptEmbedding | None = None
    fresh: bool = False
    given: Given | None = None
    last: tuple[Tensor, PromptEmbedding, Given] | None = None


class Following:
    """Looks at one pipeline's calls while edits are on it, and lets other users of its parts alone."""

    def __init__(self, pipe: Any, components: Components, both: bool) -> None:
        self._pipe = weakref.ref(pipe)  # parts, which may outlive the pipeline, have this in their hooks
        self.both = both  # whether both branches are encoded at once
        self.now = _Now()
        self.denoisers, self.tokenizers = components.denoisers, components.tokenizers
        self._told: set[str] = set()
        self.rules = 0  # how many rules and swaps stand on this
        with ExitStack() as stack:
            for denoiser in components.denoisers.values():
                stack.callback(edit_call(denoiser, "input", self.entering))
            for encoder in components.text_encoders.values():
                stack.callback(look_before(encoder, self.reading))
                stack.callback(encoder.register_state_dict_post_hook(tell_saving).remove)
            self.off: Remove = stack.pop_all().close

    def __deepcopy__(self, memo: dict[int, Any]) -> Following:
        copied = memo.get(id(self._pipe()))
        if copied is None:  # a part is copied with its hooks; what is taken off is off for the copy, too
            return self
        twin = memo[id(self)] = object.__new__(Following)
        vars(twin).update(vars(self) | {"_pipe": weakref.ref(copied), "now": _Now(), "_told": set(), "off": _nothing})
        return twin

    def __reduce__(self) -> NoReturn:
        raise not_pickled("pipeline")

    @property
    def erasures(self) -> str:
        """The erasures that are on the pipeline; empty if there are edits of a view alone."""
        with ledger_of(self._pipe()) as ledger:
            return ", ".join(handle.name for handle in ledger.handles)

    @property
    def name(self) -> str:
        """What is on the pipeline."""
        return self.erasures or "an edit"

    def calling(self) -> bool:
        """Whether this thread is in a call of the pipeline."""
        pipe = self._pipe()
        return pipe is not None and calling(pipe)

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """What text encoders are asked within the block is asked by `encode_prompt`."""
        before, self.now.encoding = self.now.encoding, True
        try:
            yield
        finally:
            self.now.encoding = before

    def encoded(self, embedding: PromptEmbedding) -> None:
        """Take note of the prompts of a call; what is encoded outside of one comes to no step."""
        if not self.calling():
            return
        now = self.now
        self._check_words(embedding)
        # With two passes in a distilled pipeline, the second text before the first step is the negative prompt.
        if now.fresh and not self.both and now.embedding is not None and now.embedding.negative is None:
            now.embedding = now.embedding.replace(negative=embedding)
        else:
            now.embedding, now.fresh = embedding, True
            self._check_parts()

    # --------------------------------------------------------------------------------------------- looks

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each pass of the denoiser."""
        if _PAUSED.get():
            return
        self.now.given = None
        pipe = self._pipe()
        if pipe is None:
            return
        if not calling(pipe):
            return self._others(module)
        arguments = inspect.Signature(list(forward_parameters(module).values())).bind(*args, **kwargs).arguments
        self._check_pictures(arguments)
        self.now.fresh = False
        if self.now.embedding is not None:
            self.now.given = self._read(self.now.embedding, arguments)
        else:
            self._check_edited()

    def reading(self, module: nn.Module, _args: Any) -> None:
        """Before each pass of a text encoder."""
        if self.now.encoding:
            return
        pipe, who = self._pipe(), caller_of(module)
        if who is not None and who is pipe:
            self._say(
                "encoder",
                f"{type(pipe).__name__} gives text to its {type(module).__name__} by another way than encode_prompt: "
                f"{self.name} does not act on it",
            )
        elif who is not None:
            self._tell_other(who, module)

    def _read(self, embedding: PromptEmbedding, arguments: Mapping[str, Any]) -> Given:
        rows, last = arguments.get(ROWS), self.now.last
        if last is not None and last[0] is rows and last[1] is embedding:
            return last[2]
        n, batch = len(embedding), len(next(iter(arguments.values())))
        if batch % n:
            raise InputError(f"the denoiser was given {batch} samples for {n} prompts: expected {n} or {2 * n}")
        k = batch // n
        parts = rows.chunk(k) if isinstance(rows, Tensor) and len(rows) == batch else ()
        prompts = [i for i, part in enumerate(parts) if _same(part, embedding)]
        negatives = [i for i, part in enumerate(parts) if _same(part, embedding.negative)]
        if prompts and prompts == negatives:  # the prompt is its own negative
            prompts, negatives = prompts[k > 1 :], negatives[: k > 1]
        if not prompts and not (negatives and k == 1):
            if k > 2:
                raise InputError(f"the denoiser was given {batch} samples for {n} prompts: expected {n} or {2 * n}")
            prompts, negatives = [k - 1], [*range(k - 1)]
            if parts:
                embedding = _as_given(embedding, parts, arguments)
                self._check_edited()
        found = Given(embedding, k, tuple(prompts), tuple(negatives))
        if isinstance(rows, Tensor):
            self.now.last = (rows, self.now.embedding or embedding, found)
        return found

    # --------------------------------------------------------------------------------------------- what is said

    def _check_edited(self) -> None:
        pipe = self._pipe()
        if any(number > 0 for number in edits_of(pipe)):
            self._say("text", _PAST_ENCODING.format(what=type(pipe).__name__, name=self.name))

    def _check_pictures(self, arguments: Mapping[str, Any]) -> None:
        more = [value for name, value in arguments.items() if name.endswith("_kwargs") and isinstance(value, Mapping)]
        if not any(value.get(name) is not None for value in more for name in _PICTURES):
            return
        if any(number > 0 for number in edits_of(self._pipe())):
            self._say(
                "pictures",
                f"a picture is part of the prompt (IP-Adapter), and {self.name} acts on text: what the picture shows "
                "is not erased",
            )

    def _check_words(self, embedding: PromptEmbedding) -> None:
        """Whether a prompt has tokens that the tokenizer was taught (textual inversion)."""
        if not any(number > 0 for number in edits_of(self._pipe())):
            return
        said = {text for texts in (embedding.prompts, *embedding.texts.values()) for text in texts}
        for tokenizer in self.tokenizers.values():
            special = {str(token) for token in tokenizer.all_special_tokens}
            taught = [token for token in tokenizer.get_added_vocab() if token not in special]
            if found := next((token for token in taught for text in said if token in text), None):
                self._say(
                    "words",
                    f"the prompt has {found!r}, which was added to the tokenizer: what it stands for is nothing that "
                    f"{self.name} was told of, and may go by as it is",
                )

    def _check_parts(self) -> None:
        """Whether the pipeline still has the denoisers that rules were put on."""
        pipe = self._pipe()
        for name, part in self.denoisers.items() if self.rules else ():
            now = getattr(pipe, name, None)
            if now is part or not isinstance(now, nn.Module) or edits_of_part(now, self):
                continue
            if unwrapped(now) is not unwrapped(part):
                self._say(
                    f"part {name}",
                    f"the {name} of this {type(pipe).__name__} was replaced while {self.name} is on: what acts on it "
                    "does not act on the new one; undo() the handle and put the erasure on again",
                )

    def _others(self, module: nn.Module) -> None:
        """Somebody else calls the denoiser: another pipeline, or who has a loop of his own."""
        other = caller_of(module)
        if other is not None:
            return self._tell_other(other, module)
        if self.rules and self.erasures:
            self._say(
                "hand",
                f"the {type(module).__name__} is called outside of its pipeline's call, where {self.name} does not "
                "act on predictions: sample by pipe(...) or PipelineView.sample",
            )

    def _tell_other(self, other: Any, part: nn.Module) -> None:
        if other is self._pipe() or edits_of(other) or not self.erasures:
            return
        self._say(
            "other",
            f"a {type(other).__name__} that shares the {type(unwrapped(part)).__name__} of a pipeline is drawing, and "
            f"{self.name}, which is on that pipeline, is not on this one: nothing is erased from it; put it on, too, "
            "erasure.on(other)",
        )

    def _say(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(text, NotReachedWarning, stacklevel=3)


_PAST_ENCODING = (
    "the denoiser of this {what} is given other rows of text than {name} has edited, and nothing is erased from them: "
    "they were encoded before it was put on, or came by another way than encode_prompt (a callback, an encoder of "
    "one's own); pass prompts, or prompt_embeds, to the call"
)


def _nothing() -> None:
    """Hooks of a copy stay with it."""


def edits_of_part(part: nn.Module, following: Following) -> bool:
    """Whether a part, which may be a copy, has the hooks of a pipeline's edits."""
    hooks = [*part._forward_pre_hooks.values()]
    owners = [getattr(hook, "__self__", None) for hook in hooks]
    changes = [change for owner in owners for change in getattr(owner, "changes", {}).values()]
    return any(getattr(each, "__self__", None) is following for each in (*hooks, *changes))


def _same(rows: Tensor, embedding: PromptEmbedding | None) -> bool:
    if embedding is None or embedding.sequence.shape != rows.shape:
        return False
    return rows is embedding.sequence or torch.equal(rows, embedding.sequence.to(rows))


def _as_given(embedding: PromptEmbedding, parts: tuple[Tensor, ...], arguments: Mapping[str, Any]) -> PromptEmbedding:
    """Prompts of unknown text, as the denoiser is given them."""
    pooled = pooled_of(arguments)
    vectors = pooled.chunk(len(parts)) if pooled is not None and embedding.pooled is not None else (None,) * len(parts)

    def at(i: int) -> PromptEmbedding:
        mask = embedding.mask if embedding.mask is not None and embedding.mask.shape == parts[i].shape[:2] else None
        return PromptEmbedding(parts[i], pooled=vectors[i], mask=mask, layout=embedding.layout)

    negative = embedding.negative if len(parts) == 1 else at(0)
    return dataclasses.replace(at(len(parts) - 1), negative=negative)
