"""Fitting an eraser for each site, one after the other or all at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, overload

from torch import nn

from efface._errors import InputError
from efface._io import as_path
from efface._memory import bytes_of
from efface.core.doors import check_word
from efface.core.labels import Kind
from efface.core.method import Method
from efface.scrubbing.batches import Batches
from efface.scrubbing.checkpoint import ScrubCheckpoint
from efface.scrubbing.config import Activations, Order, ScrubConfig, config_for, rows_method
from efface.scrubbing.fit import Fit
from efface.scrubbing.forward import at_rest, bare
from efface.scrubbing.many import shared_fit
from efface.scrubbing.planning import Beyond, Plan
from efface.scrubbing.scrubber import Scrubber
from efface.scrubbing.sites import SitesLike
from efface.scrubbing.together import Together
from efface.scrubbing.token_labels import IGNORE


@overload
def scrub(
    model: nn.Module, data: Any, concept: Any, *, sites: SitesLike, concepts: None = None, **options: Any
) -> Scrubber: ...
@overload
def scrub(
    model: nn.Module,
    data: Any,
    concept: None = None,
    *,
    sites: SitesLike,
    concepts: Mapping[str, Any] | Sequence[str],
    **options: Any,
) -> dict[str, Scrubber]: ...
def scrub(
    model: nn.Module,
    data: Any,
    concept: Any = None,
    *,
    concepts: Mapping[str, Any] | Sequence[str] | None = None,
    sites: SitesLike,
    method: str = "leace",
    order: Order = "sequential",
    activations: Activations = "recompute",
    batch_size: int = 8,
    ignore_index: int = IGNORE,
    kind: Kind = "auto",
    table: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    group: Any = None,
    memory: int | str | None = None,
    beyond: Beyond = "passes",
    measure: bool = True,
    **options: Any,
) -> Scrubber | dict[str, Scrubber]:
    """Fit an eraser of a concept for each site of a model; the model is left as it was.

    Args:
        model: Any PyTorch module; of Hugging Face models the roles of sites are known.
        data: What a tokenizer or image processor gives: a mapping of arrays `(n, ...)`, token ids `(n, length)` alone,
            or a list or DataLoader (not shuffled) of batches of such. `attention_mask` keeps padding out of the fit.
        concept: Labels: `(n, length)` one a token, `(n,)` one a sequence (which then holds for each of its tokens),
            rows of different lengths, the name of a column of `data`, or a function from a batch to its labels.
            Integers are classes; floats are quantities. Spans: see `labels_from_spans`.
        concepts: In place of `concept` several, name -> labels, or names of columns of `data`; in parallel order alone.
            One pass gathers them all, with one covariance a site for those whose labels leave out the same tokens, and
            each gets a scrubber of its own, as a fit by itself would give it. To erase several with one scrubber, pass
            `concept=efface.join_concepts(a, b)`.
        sites: Where to erase: `"norms"`, `"residual"`, `"mlp_out"`, `"attn_out"`, module paths, globs, regular
            expressions, `Site`s, or a list of these; see `find_sites`.
        method: A method of the registry whose erasers need no labels: `"leace"`, `"orth"`, `"mean-difference"`.
        order: `"sequential"` fits each site with the erasers of the earlier ones on, so that the concept is gone from
            all of them at once; `"parallel"` fits all on the plain model in one pass, and later sites then see other
            hidden states than those they were fitted on.
        activations: How a sequential fit gets from site to site.
            `"recompute"`: from the beginning for each site; memory does not depend on the number of tokens, and the
            cost is about half as many forward passes as there are sites.
            `"memory"` or `"disk"`: what each block gives is kept for every token (`n * length * width` numbers), and
            each block runs about once and a half for two sites a block. Not for models that pass more from block to
            block than blocks return; that is checked.
        batch_size: Sequences in a forward pass, where `data` is not in batches already.
        ignore_index: Label of tokens that are left out.
        kind: What labels are, if not what their dtype says.
        table: Role -> patterns, for a model whose sites of a role are not known or not right.
        checkpoint: Folder to go on from after an interruption, with the same result; deleted at the end.
        scratch: Under which folder to keep activations, or sums, on disk; None takes the system's.
        group: Of torch.distributed: each of its processes calls this, with the same model and its own sequences, few or
            many, but at least one (whose labels may all be ignored), and gets the same scrubber, fitted on all. None
            is one process alone; `torch.distributed.group.WORLD` is all. Checkpoints lie in a folder a process.
        memory: How much of it statistics may take on each device, `"4 GiB"` or bytes; None is no limit. What a parallel
            fit does to stay within is `plan(model, data, ...)`; whatever it is, the result is the same, bit for bit.
        beyond: What a parallel fit does with what is beyond it: `"passes"` takes some of the sites in each of several
            passes over the data; `"disk"` keeps sums in files, which are read and written once a batch.
        measure: Whether one more pass (for each concept) measures what is left with all erasers on.
        options: Further options of the method, such as `affine=False` or `shrinkage=False`, and `dtype`.

    Returns:
        A `Scrubber`: `with scrubber.on(model): model(...)` erases. For several concepts, name -> scrubber; they are put
        on one at a time.

    Raises:
        InputError: If a site matches nothing, labels do not fit the tokens, the concept is absent from the data, or
            hidden states are not finite (the text says where they first were not).

    Guarantees, for LEACE in sequential order, on the data of the fit: equal class means at every site at once, hence
    no linear predictor at any one of them beats a constant.

    Does not guarantee: that a non-linear reader, or one that sees several tokens or sites together, finds nothing;
    nor anything of sites that were not named.

    Source: concept scrubbing, Algorithm 1 of arXiv:2306.03819.
    """
    rows = rows_method(method)
    own = {"activations": activations, "batch_size": batch_size, "ignore_index": ignore_index}
    given = {"sites": sites, "order": order, **own, "kind": kind, "table": table, **options}
    config = config_for(rows).of(given, method=method)
    room = {"scratch": scratch, "group": group, "memory": memory, "beyond": beyond}
    if concepts is None:
        return scrub_with(rows, model, data, concept, config, checkpoint=checkpoint, measure=measure, **room)
    _check_one(concept)
    if checkpoint is not None:
        raise InputError("a fit of several concepts, which is one pass, keeps no checkpoint: leave out checkpoint=")
    fits = shared_fit(rows, bare(model), data, concepts, config, _room(**room))
    return fits.scrubbers(measure=measure)


def plan(
    model: nn.Module, data: Any, concept: Any = None, *, sites: SitesLike, method: str = "leace", **options: Any
) -> Plan:
    """How `scrub` with these arguments would keep its statistics; the model is run on one batch, and nothing is fitted.

    Args:
        model: As for `scrub`.
        data: As for `scrub`; all of it is gone through, to see the labels.
        concept: As for `scrub`.
        sites: As for `scrub`.
        method: As for `scrub`.
        options: What else `scrub` takes, `memory=` and `order="parallel"` among it.

    Returns:
        A `Plan`; printed, it says how many passes over the data and how much memory.

    Raises:
        InputError: As `scrub`; among them that a budget is too little, and what would do.
    """
    rows, given = rows_method(method), dict(options)
    room = {name: given.pop(name) for name in ("scratch", "group", "memory", "beyond") if name in given}
    concepts = given.pop("concepts", None)
    for name in ("checkpoint", "measure"):
        given.pop(name, None)
    config = config_for(rows).of({"sites": sites, **given}, method=method)
    if concepts is None:
        return _prepared(rows, model, data, concept, config, **room).plan
    _check_one(concept)
    return shared_fit(rows, bare(model), data, concepts, config, _room(**room)).plan


def scrub_with(
    rows: Method,
    model: nn.Module,
    data: Any,
    labels: Any,
    config: ScrubConfig,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    measure: bool = True,
    **room: Any,
) -> Scrubber:
    """`scrub` by a method of rows, with its options as a value."""
    fit = _prepared(rows, model, data, labels, config, **room)
    with at_rest(fit.model):
        settings = fit.settings()
        fit.checkpoint = ScrubCheckpoint(fit.together.folder(checkpoint), settings, fit.method)
        fit.parallel() if config.order == "parallel" else fit.sequential()
        left = fit.left() if measure else None
        fit.checkpoint.clear()
    return fit.scrubber(settings, left)


def _prepared(
    rows: Method,
    model: nn.Module,
    data: Any,
    labels: Any,
    config: ScrubConfig,
    **room: Any,
) -> Fit:
    """A fit that has looked at the labels and at the sites, and is planned."""
    batches = Batches(data, labels, batch_size=config.batch_size, ignore_index=config.ignore_index)
    fit = Fit(model=bare(model), batches=batches, method=rows, config=config, **_room(**room))
    found = fit.places.find(config.sites)
    with at_rest(fit.model):
        fit.prepare(found)
        _ = fit.plan
    return fit


def _check_one(concept: Any) -> None:
    if concept is not None:
        raise InputError("concept and concepts are both given: write one of them")


def _room(
    *,
    scratch: str | os.PathLike[str] | None = None,
    group: Any = None,
    memory: int | str | None = None,
    beyond: Beyond = "passes",
) -> dict[str, Any]:
    """With whom and in what room a fit works, as a `Fit` takes it."""
    check_word(beyond, Beyond, "beyond")
    if memory is None and beyond != "passes":
        raise InputError(f"beyond={beyond!r} says what becomes of what is beyond a budget: write memory='16 GiB', too")
    return {
        "scratch": None if scratch is None else _folder(scratch),
        "together": Together.of(group),
        "memory": None if memory is None else bytes_of(memory),
        "beyond": beyond,
    }


def _folder(scratch: str | os.PathLike[str]) -> str:
    folder = as_path(scratch, "scratch")
    if not folder.is_dir():
        raise InputError(f"scratch is {str(folder)!r:.120}, where there is no folder: make it first, or leave it out")
    return str(folder)
