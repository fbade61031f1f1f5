"""The parts of a pipeline by role: found by what they are and what they can be called with, never by attribute path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from efface._errors import InputError
from efface.core.subjects import unwrapped

ROLES: dict[str, str] = {
    "text_encoders": "models that take input_ids",
    "tokenizers": "tokenizers",
    "denoiser": "a model whose forward takes timestep and encoder_hidden_states",
    "vae": "a model that can encode and decode",
    "scheduler": "an object with step and set_timesteps",
}
"""The roles, and how each is recognised."""

_SEVERAL = ("text_encoders", "tokenizers")


@dataclass(frozen=True)
class Components:
    """Names and parts of a pipeline by role.

    Attributes:
        text_encoders: Name -> model that takes token ids.
        tokenizers: Name -> tokenizer.
        denoisers: Name -> model that predicts noise, velocity or sample. Wan 2.2 has two, one for high noise.
        vae: The autoencoder.
        scheduler: The sampler.
        scheduler_name: Its name.
    """

    text_encoders: Mapping[str, nn.Module]
    tokenizers: Mapping[str, Any]
    denoisers: Mapping[str, nn.Module]
    vae: nn.Module
    scheduler: Any
    scheduler_name: str

    @classmethod
    def of(cls, pipe: Any, roles: Mapping[str, Any]) -> Components:
        """Find the parts of a pipeline.

        Args:
            pipe: A diffusers pipeline.
            roles: What to take for a role instead of searching: a component's name or the component itself; several
                of them for `text_encoders` and `tokenizers`.

        Raises:
            InputError: If a role is unknown, missing or given wrongly; the text says how to give it.
        """
        if unknown := sorted(set(roles) - set(ROLES)):
            raise InputError(f"unknown role {unknown[0]!r}: a pipeline has the roles {', '.join(ROLES)}")
        parts = dict(_parts(pipe))
        found = {role: _found(pipe, parts, role, roles.get(role)) for role in ROLES}
        return cls(
            found["text_encoders"],
            found["tokenizers"],
            found["denoiser"],
            next(iter(found["vae"].values())),
            next(iter(found["scheduler"].values())),
            next(iter(found["scheduler"])),
        )

    def denoiser(self, name: str) -> nn.Module:
        """The denoiser of a name.

        Raises:
            InputError: If there is none; the text says which there are.
        """
        if name not in self.denoisers:
            raise InputError(f"there is no denoiser {name!r:.60}: write one of {', '.join(self.denoisers)}")
        return self.denoisers[name]

    def scheduler_of(self, pipe: Any) -> Any:
        """The sampler that the pipeline has now: it is swapped freely, which changes nothing else."""
        return getattr(pipe, self.scheduler_name, None) or self.scheduler


def _parts(pipe: Any) -> Iterator[tuple[str, Any]]:
    parts = getattr(pipe, "components", None)
    if not isinstance(parts, Mapping):
        raise InputError(
            f"expected a diffusers pipeline, got {type(pipe).__name__}, which has no components: "
            "pass what DiffusionPipeline.from_pretrained returns"
        )
    yield from ((name, part) for name, part in parts.items() if part is not None)


def _found(pipe: Any, parts: Mapping[str, Any], role: str, given: Any) -> dict[str, Any]:
    if given is not None:
        wanted = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        return dict(_named(pipe, parts, role, part) for part in wanted)
    found = {name: part for name, part in parts.items() if _TESTS[role](part)}
    if not found:
        example = "['...']" if role in _SEVERAL else "'...'"
        raise InputError(
            f"{type(pipe).__name__} has no {role.replace('_', ' ')} ({ROLES[role]}) among its components "
            f"{', '.join(parts) or '(none)'}: name the component, as in PipelineView.of(pipe, {role}={example}), "
            "or take a pipeline that is driven by text"
        )
    return found


def _named(pipe: Any, parts: Mapping[str, Any], role: str, part: Any) -> tuple[str, Any]:
    name = part if isinstance(part, str) else next((n for n, p in parts.items() if p is part), None)
    if name is None or name not in parts:
        shown = repr(part) if isinstance(part, str) else f"a {type(part).__name__}"
        raise InputError(
            f"{role}={shown} is no component of {type(pipe).__name__}: its components are {', '.join(parts)}"
        )
    return name, parts[name]


def forward_parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Parameters of a module's forward, without `self`; read from its class, whatever hooks are on the instance.

    Those of a module that was compiled are those of the module inside.
    """
    parameters = dict(inspect.signature(type(unwrapped(module)).forward).parameters)
    parameters.pop("self", None)
    return parameters


def _is_text_encoder(part: Any) -> bool:
    return isinstance(part, nn.Module) and getattr(part, "main_input_name", None) == "input_ids"


def _is_tokenizer(part: Any) -> bool:
    return callable(part) and hasattr(part, "convert_ids_to_tokens") and hasattr(part, "model_max_length")


def _is_denoiser(part: Any) -> bool:
    if not isinstance(part, nn.Module) or _is_text_encoder(part):
        return False
    takes = forward_parameters(part)
    # A ControlNet is called the same way, and takes its picture besides.
    return {"timestep", "encoder_hidden_states"} <= set(takes) and "controlnet_cond" not in takes


def _is_vae(part: Any) -> bool:
    return isinstance(part, nn.Module) and all(callable(getattr(part, name, None)) for name in ("encode", "decode"))


def _is_scheduler(part: Any) -> bool:
    return all(callable(getattr(part, name, None)) for name in ("step", "set_timesteps"))


_TESTS: dict[str, Callable[[Any], bool]] = {
    "text_encoders": _is_text_encoder,
    "tokenizers": _is_tokenizer,
    "denoiser": _is_denoiser,
    "vae": _is_vae,
    "scheduler": _is_scheduler,
}
