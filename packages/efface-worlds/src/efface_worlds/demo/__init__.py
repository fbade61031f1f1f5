"""What `efface demo` shows: LEACE on the table, the sentences and two transformers, each audited.

`demonstration` joins the parts; `token_world` and `minilm_layers` are the two that look inside a model.
"""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""Told what is going on."""
