"""Models of the worlds lie in folders: transformers reads them without the network and without a word."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from efface._lazy import require

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """The library transformers, kept from the network and with its progress bars off; both are put back afterwards.

    Raises:
        MissingExtraError: If transformers is not installed.
    """
    with _offline():
        transformers = require("transformers", extra="hf")
        with _no_bars(transformers.utils.logging):
            yield transformers


@contextmanager
def _no_bars(logging: Any) -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub library from the network while a model is loaded: it reads these when it is first imported."""
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
