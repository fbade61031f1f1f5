"""Editing prompts where a pipeline encodes them, so that `pipe(...)` itself is edited as well as the view."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from efface._errors import InputError
from efface.core.hooks import Remove, not_pickled, patch
from efface.pipelines.components import Components
from efface.pipelines.embedding import PromptEmbedding, Slot
from efface.pipelines.encoding import Encoding
from efface.pipelines.following import Following, edits_of
from efface.pipelines.restoring import lock_of

TextEdit: TypeAlias = Callable[[PromptEmbedding], "PromptEmbedding | None"]
"""Takes prompts as encoded; what it returns replaces them, unless that is None. `negative` is None without guidance."""

_NUMBERS = itertools.count(1)
_LOCK = threading.RLock()  # not the pipeline's, which is held as long as it samples


@dataclass(frozen=True)
class _Now:
    """What a thread is doing with a pipeline.

    Attributes:
        pipe: The pipeline.
        skip: Numbers of edits that are not to be repeated.
        prompts: Those of the embedding that the pipeline is handed.
        options: Options of the call of `encode_prompt` that is being edited, if one is.
    """

    pipe: Any
    skip: frozenset[int] = frozenset()
    prompts: tuple[str, ...] = ()
    options: Mapping[str, Any] | None = None


_NOW: ContextVar[tuple[_Now, ...]] = ContextVar("now", default=())


def _now(pipe: Any) -> _Now:
    return next((now for now in reversed(_NOW.get()) if now.pipe is pipe), _Now(pipe))


@contextmanager
def _while(now: _Now) -> Iterator[None]:
    token = _NOW.set((*_NOW.get(), now))
    try:
        yield
    finally:
        _NOW.reset(token)


class EditedEncoding:
    """Stands for a pipeline's `encode_prompt` and edits what it returns.

    Embeddings that are handed to the pipeline are edited too. Those made by `PipelineView.encode` carry the edits that
    they have been through, and `PipelineView.sample` does not repeat these; a bare tensor carries nothing, so one made
    by `pipe.encode_prompt` inside the block and handed back to `pipe(...)` is edited twice. Where a distilled pipeline
    encodes its negative prompt by a second call (`true_cfg_scale`), that prompt is edited as the first one is.
    """

    def __init__(self, encoding: Encoding, layout: tuple[Slot, ...], components: Components) -> None:
        self.encoding, self.layout = encoding, layout
        self.original: Callable[..., Any] = encoding.pipe.encode_prompt
        self.edits: dict[int, TextEdit] = {}
        self.following = Following(encoding.pipe, components, encoding.both_branches)
        self._off: Remove = patch(encoding.pipe, "encode_prompt", self)

    def off(self) -> None:
        """Take it off."""
        self._off()
        self.following.off()

    def __reduce__(self) -> NoReturn:
        raise not_pickled("pipeline")

    def __deepcopy__(self, memo: Any) -> EditedEncoding:
        twin = memo[id(self)] = object.__new__(EditedEncoding)
        vars(twin).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items() if name != "_off"})
        twin._off = _stays
        return twin

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the pipeline's `encode_prompt` returns, edited; one thread at a time."""
        given = dict(zip(self.encoding.parameters, args, strict=False)) | kwargs
        now = _now(self.encoding.pipe)
        if now.options is not None:
            # An edit encodes something itself: not edited, and with the options of the call that it edits.
            return self.original(**{**given, **now.options})
        with lock_of(self.encoding.pipe), self.following.encoding():
            out = self.original(*args, **kwargs)
            before = after = self._read(out, given, now.prompts)
            options = {name: given[name] for name in self.encoding.options if name in given}
            with _while(dataclasses.replace(now, options=options)):
                for number, edit in list(self.edits.items()):
                    if number not in now.skip:
                        after = _checked(edit(after), after)
        self.following.encoded(after)
        return out if after is before else self.encoding.write(out, after)

    def _read(self, out: Any, given: dict[str, Any], handed: tuple[str, ...]) -> PromptEmbedding:
        found = self.encoding.read(out, (), self.layout)
        each = [n for name, n in given.items() if name.startswith("num_") and name.endswith("_per_prompt") and n]
        if found.negative is not None:
            found = found.replace(negative=self._told(found.negative, given, "negative_", (), each))
        return self._told(found, given, "", handed, each)

    def _told(
        self, found: PromptEmbedding, given: Mapping[str, Any], sign: str, handed: tuple[str, ...], each: list[int]
    ) -> PromptEmbedding:
        """An embedding with the texts that were given: to all text encoders, and to some alone."""
        prompt = given.get(f"{sign}prompt")
        texts = {
            slot.encoder: _texts(given[sign + slot.argument], len(found), *each)
            for slot in self.layout
            if slot.argument != "prompt" and given.get(sign + slot.argument)
        }
        prompts = _texts(handed if prompt is None else prompt, len(found), *each)
        return found.replace(prompts=prompts, texts={name: told for name, told in texts.items() if told != prompts})


def _stays() -> None:
    """What is on a copy of a pipeline stays on it."""


def _texts(given: Any, n: int, each: int = 1) -> tuple[str, ...]:
    """The prompts of a batch of `each` pictures a prompt, if they are known."""
    found = (given,) * n if isinstance(given, str) else tuple(text for text in given or () for _ in range(each))
    return found if len(found) == n else ()


def _checked(edited: Any, before: PromptEmbedding) -> PromptEmbedding:
    if edited is None:
        return before
    if not isinstance(edited, PromptEmbedding):
        raise InputError(
            f"an edit of text must return a PromptEmbedding or None, not {type(edited).__name__}: "
            "write  return embedding.replace(sequence=...)"
        )
    return before.replace(**edited.tensors(), negative=edited.negative)


def install_edit(
    pipe: Any,
    encoding: Encoding,
    layout: tuple[Slot, ...],
    components: Components,
    edit: TextEdit,
    once: bool = True,
) -> Callable[[], None]:
    """Edit what a pipeline encodes, until the function that is returned is called. Edits go on and off in any order.

    Args:
        pipe: The pipeline.
        encoding: Its encoding.
        layout: Goes into what the edit is given.
        components: Its parts.
        edit: The edit.
        once: Not again for embeddings that carry its number (see `EditedEncoding`).
    """
    number = next(_NUMBERS) * (1 if once else -1)  # negative numbers are always repeated
    with _LOCK:
        current = vars(pipe).get("encode_prompt")
        if not isinstance(current, EditedEncoding):
            current = EditedEncoding(encoding, layout, components)
        current.edits[number] = edit

    def remove() -> None:
        with _LOCK:
            current.edits.pop(number, None)
            if not current.edits:
                current.off()

    return remove


def active_edits(pipe: Any) -> frozenset[int]:
    """Numbers of the edits that are on a pipeline now."""
    return frozenset(number for number in edits_of(pipe) if number > 0)


def listeners(pipe: Any) -> frozenset[int]:
    """Numbers of those that only listen to what a pipeline's call encodes (`once=False`)."""
    return frozenset(number for number in edits_of(pipe) if number < 0)


def options_of(pipe: Any) -> Mapping[str, Any]:
    """Options of the call of `encode_prompt` that this thread is editing; none outside of one."""
    return _now(pipe).options or {}


@contextmanager
def skipping(pipe: Any, edits: frozenset[int], prompts: tuple[str, ...] = ()) -> Iterator[None]:
    """Do not repeat these edits for the length of a block; edits are told these prompts of embeddings handed in.

    Other threads are not concerned.
    """
    with _while(dataclasses.replace(_now(pipe), skip=edits, prompts=prompts)):
        yield
