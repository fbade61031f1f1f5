"""Roles, folding and export on every text architecture of transformers of which a small model can be made."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from typing import Any

import torch
import transformers
from tests.architectures import small_model, text_architectures

from benchmarks._measure import table
from efface import InputError, Site, find_roles, foldable, scrub
from efface.core.watching import tensors_in
from efface.scrubbing.examples import example_inputs, passes
from efface.scrubbing.forward import at_rest, edited, uncached
from efface.scrubbing.roles import ROLES, Roles, Stream

GOOD = 1e-3
"""What is further from what is expected, of its largest number, is called FAILED."""


def states(model: Any, inputs: Any, sites: list[Site]) -> dict[Site, torch.Tensor]:
    """What is at these sites in one forward pass."""
    found: dict[Site, torch.Tensor] = {}

    def keep(site: Site) -> Any:
        return lambda y: found.update({site: y.double().clone()})

    with at_rest(model), edited(model, {site: keep(site) for site in sites}):
        model(**uncached(model, inputs))
    return found


def sums(model: Any, seen: Roles) -> str:
    """How far what blocks give is from what they are given plus the sites of their roles, at most."""
    worst, adding, inputs = 0.0, 0, example_inputs(model)
    for block in (block for stream in seen.streams for block in stream.blocks if block.calls == 1):
        parts = [Site(path) for path in (*block.attn_out, *block.mlp_out)]
        x = states(model, inputs, [Site(block.path, "input"), Site(block.path), *parts])
        given, gives = x[Site(block.path, "input")].flatten(), x[Site(block.path)].flatten()
        shares = torch.stack([x[part].reshape(-1) for part in parts], 1)  # some are multiplied by a number
        off = gives - given - shares @ torch.linalg.lstsq(shares, (gives - given)[:, None]).solution[:, 0]
        far = float(off.abs().max() / gives.abs().max())
        adding += far < GOOD
        worst = max(worst, far if far < GOOD else 0.0)
    total = sum(len(stream.blocks) for stream in seen.streams)
    return f"{worst:.0e} in {adding} of {total} blocks"


def counts(stream: Stream) -> str:
    """What was found in one stream: blocks, norms, attention, feed-forward."""
    return "/".join(str(len(stream.paths(role))) for role in ("residual", "norms", "attn_out", "mlp_out"))


def refusals(seen: Roles) -> list[str]:
    """The roles that are refused."""
    refused = []
    for role in ROLES:
        try:
            seen.sites(role)
        except InputError:
            refused.append(role)
    return refused


def folded(model: Any) -> str:
    """Erasers that shift nothing, folded where that is possible, and the model saved and loaded again."""
    inputs = passes(model, None)[-1]
    ids = torch.randint(3, 90, (16, 8), generator=torch.Generator().manual_seed(0))
    more = {"decoder_input_ids": ids} if "decoder_input_ids" in inputs else {}
    known = scrub(model, {"input_ids": ids, **more}, ids % 3, sites="norms", affine=False)
    into = foldable(model, known.erasers)
    some = [site for site, layers in into.items() if not isinstance(layers, str)]
    if not some:
        return "n/a: no norm is read by linear layers alone"
    few = known.only(*some)
    with at_rest(model), few.on(model):
        expected = next(tensors_in(model(**uncached(model, inputs)))).clone()
    with at_rest(model), few.folded(model).on(model):
        found = next(tensors_in(model(**uncached(model, inputs)))).clone()
    far = float((found - expected).abs().max() / expected.abs().max())
    with tempfile.TemporaryDirectory() as folder:
        try:
            few.export(f"{folder}/model", model)
        except InputError as error:
            saved = f"export refused ({str(error)[:60]}...)"
        else:
            saved = "exported"
    return f"{'ok' if far < GOOD else 'FAILED'}: {far:.0e} at {len(some)} of {len(into)} sites, {saved}"


def row(name: str) -> list[str]:
    """One line of the table."""
    try:
        model = small_model(name)
    except Exception as error:
        return [name, f"not built: {type(error).__name__} {str(error).strip().splitlines()[0][:60]}", "", "", ""]
    try:
        seen = find_roles(model)
    except InputError as error:
        return [name, f"refused: {str(error)[:90]}...", "", "", ""]
    refused = refusals(seen)
    unguarded = f"{len(seen.unguarded)} unguarded" if seen.unguarded else "all"
    found = " ".join(map(counts, seen.streams)) + (f" refused: {', '.join(refused)}" if refused else "")
    if not seen.streams or "attn_out" in refused:
        return [name, found, "", unguarded if seen.streams else "", ""]
    try:
        return [name, found, sums(model, seen), unguarded, folded(model)]
    except InputError as error:
        return [name, found, "", unguarded, f"refused: {str(error)[:90]}..."]
    except Exception as error:
        return [name, found, "", unguarded, f"FAILED: {type(error).__name__} {str(error)[:80]}"]


def roles() -> None:
    """Print the table, and how many lines of it fail."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    rows = [row(name) for name in text_architectures()]
    header = [
        "`model_type`",
        "blocks/norms/attn_out/mlp_out",
        "block = given + roles",
        "readers behind a norm",
        "folded",
    ]
    table(f"Roles, transformers {transformers.__version__}", header, rows)
    kinds = Counter(map(kind, rows))
    print(", ".join(f"{n} {each}" for each, n in kinds.most_common()))


def kind(cells: list[str]) -> str:
    """What a line comes to."""
    if "not built" in cells[1]:
        return "not built"
    return "FAILED" if "FAILED" in cells[-1] else "refused in part or whole" if "refused:" in cells[1] else "ok"
