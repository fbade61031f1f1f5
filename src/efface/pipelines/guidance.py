"""What the denoiser of a pipeline predicts, and how text guides it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from efface._errors import InputError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
_FLOWS = ("flow_prediction", "flow")


@dataclass(frozen=True)
class Guidance:
    """How a pipeline strengthens its text.

    Attributes:
        mode: `"classifier-free"`: two passes, with the prompt and with the negative prompt;
            `"embedded"`: the scale is an input of a distilled denoiser, one pass and no negative prompt;
            `"none"`: neither.
        argument: The argument of the pipeline's call that sets the scale, if any.
        default: Its default.
        true_argument: The argument that asks for two passes all the same (FLUX, HunyuanVideo), if any.
    """

    mode: Literal["classifier-free", "embedded", "none"]
    argument: str | None
    default: float | None
    true_argument: str | None = None

    @property
    def negative(self) -> bool:
        """Whether the negative prompt is used unless something special is asked for."""
        return self.mode == "classifier-free"

    def __str__(self) -> str:
        extra = f" (true CFG by {self.true_argument})" if self.true_argument else ""
        return self.mode + extra


def prediction_type(scheduler: Any) -> Prediction:
    """What the scheduler takes the denoiser's output for.

    Raises:
        InputError: If the scheduler does not say.
    """
    config = getattr(scheduler, "config", {})
    given = config.get("prediction_type") if hasattr(config, "get") else None
    if given in _FLOWS or (given is None and callable(getattr(scheduler, "scale_noise", None))):
        return "flow"
    if given in ("epsilon", "v_prediction", "sample"):
        return given
    raise InputError(
        f"{type(scheduler).__name__} names no known prediction type: its config says {given!r}, expected epsilon, "
        "v_prediction, sample or flow_prediction"
    )


def guidance_of(denoiser: Any, encode: Mapping[str, Any], call: Mapping[str, inspect.Parameter]) -> Guidance:
    """How a pipeline is guided, from the denoiser's config and the arguments of the pipeline.

    Args:
        denoiser: The denoiser.
        encode: Parameters of the pipeline's `encode_prompt`.
        call: Parameters of the pipeline's call.
    """
    config = getattr(denoiser, "config", {})
    distilled = bool(config.get("guidance_embeds")) or config.get("time_cond_proj_dim") is not None
    argument = "guidance_scale" if "guidance_scale" in call else None
    default = call[argument].default if argument else None
    true = "true_cfg_scale" if "true_cfg_scale" in call else None
    if distilled:
        return Guidance("embedded", argument, default, true)
    if argument and "do_classifier_free_guidance" in encode:
        return Guidance("classifier-free", argument, default, true)
    return Guidance("none", argument, default, true)
