"""Pipelines as subjects of erasures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efface.core.subjects import Adapter, register_subject
from efface.pipelines.view import PipelineView


def _is_pipeline(thing: Any) -> bool:
    return isinstance(thing, PipelineView) or (callable(thing) and isinstance(_components(thing), Mapping))


def _components(thing: Any) -> Any:
    return getattr(thing, "components", None)


def _pipe(view: PipelineView) -> Any:
    return view.pipe


register_subject(Adapter("pipeline", _is_pipeline, PipelineView.of, _pipe))
