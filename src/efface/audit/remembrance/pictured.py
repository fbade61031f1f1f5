"""Pipelines: what do their pictures still show, when something else was erased?

Everything that is asked for is drawn before, before again (from other noise), after each erasure, and after placebos,
and a judge says what is to be seen. Each arm is written down as soon as it is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._io import as_path, read_json, reading
from efface._progress import progress
from efface._text import shown
from efface._validate import check_int, check_positive_int
from efface.audit.audit import Audit
from efface.audit.pipelines.pipeline import as_view
from efface.audit.pipelines.presence import Judge
from efface.audit.remembrance.drawn import Arm, Case, Names, draw_arm
from efface.audit.remembrance.interfered import ALPHA, interfered
from efface.audit.remembrance.interference import NOTHING, Interference
from efface.audit.remembrance.registry import Registry
from efface.audit.remembrance.systems import AGAIN, BEFORE
from efface.core.checkpoint import FILE, Checkpoint
from efface.core.doors import check_call
from efface.core.fingerprint import fingerprint
from efface.core.provenance import called, provenance
from efface.stats.intervals import check_draws


def interference(
    subject: Any,
    erasures: Mapping[str, Any],
    asked: Mapping[str, Sequence[str]],
    *,
    judge: Judge,
    names: Names | None = None,
    placebos: Mapping[str, Any] | None = None,
    seeds: int = 1,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    pictures: bool = False,
    batch_size: int = 16,
    say: Callable[[str], None] | None = None,
    **sampling: Any,
) -> Interference:
    """Draw what is asked for before and after each erasure, from the same noise, and let a judge say what is seen.

    Access: prompts. Where an erasure edits text alone and leaves a prompt's embedding as it is, the picture before is
    taken in place of a new one, which would be the same.

    Args:
        subject: A diffusers pipeline, or a view of one, without any of the erasures on it.
        erasures: Name, mostly of what is erased -> an erasure, which is put on; another pipeline, which has gone
            through one or never saw it (a gold model); or a function without arguments that gives either, called when
            its turn comes, and only if that arm is not there yet.
        asked: Whom or what to ask for, as the judge knows it -> prompts.
        judge: Called with images `(n, 3, h, w)` in [0, 1] and a name; gives 0 to 1 for each, NaN where it cannot say.
        names: What images show most clearly, by name, or `""`: who comes in where another goes.
        placebos: Edits that should not matter, in the same forms.
        seeds: How many pictures a prompt.
        seed: Of the first picture's noise; each other has the next, and those of "before again" follow on these.
        folder: Where arms are kept as soon as they are done; what is there is not drawn again, and more erasures may
            be asked for later.
        pictures: Keep the pictures there, too, as evidence: `pictures_of` reads them.
        batch_size: Images at a time.
        say: Told what is going on.
        **sampling: Further arguments of `PipelineView.sample`: `steps`, `guidance`, ...

    Raises:
        InputError: If there is nothing to ask or to erase, the folder is of other prompts, pipeline or judge, or the
            judge returns something else than it should.

    Does not guarantee: that the judge errs as often for one as for another; compare those before.
    """
    check_call(interference, locals())
    call = called(
        "efface.audit.remembrance.pictured.interference", {**locals(), **sampling, "sampling": None, "say": None}
    )
    check_int(seed, "seed", least=0)
    check_positive_int(batch_size, "batch_size")
    others = dict(placebos or {})
    _check_names(erasures, others, asked)
    if pictures and folder is None:
        raise InputError("pictures are kept in a folder: write folder=, or leave pictures out")
    case = _case(subject, asked, judge, names, check_positive_int(seeds, "seeds"), batch_size, sampling)
    n = len(case.prompts)
    runs: dict[str, Any] = {BEFORE: None, AGAIN: None, **erasures, **others}
    noise = {arm: np.arange(seed, seed + n) + (n if arm == AGAIN else 0) for arm in runs}
    settings = _settings(case, seed, pictures)
    saved = Checkpoint(None if folder is None else Path(folder), settings, what="matrix of interference")
    found: dict[str, Arm] = {}
    with progress("drawing", len(runs), unit="arms") as bar:
        for arm, system in runs.items():
            found[arm] = _kept(saved, arm, n) or _drawn(case, arm, system, noise[arm], found, pictures, saved, say)
            bar.update(1)
    places = {name: i for i, name in enumerate(dict.fromkeys(s for arm in found.values() for s in arm.shown if s))}
    return Interference(
        tuple(erasures),
        tuple(others),
        case.entities,
        case.place,
        case.query,
        case.turn,
        case.prompts,
        noise[BEFORE],
        np.stack([arm.seen for arm in found.values()]),
        tuple(places),
        None if names is None else np.array([[places.get(s, NOTHING) for s in arm.shown] for arm in found.values()]),
        judge=settings["judge"],
        provenance=provenance(subject=[case.view.pipe], seed=seed, call=call),
    )


def remembered_by_pictures(
    subject: Any,
    erasures: Mapping[str, Any],
    asked: Mapping[str, Sequence[str]],
    *,
    judge: Judge,
    registry: Registry | Mapping[str, Registry] | None = None,
    each: Sequence[str] = (),
    smallest_cell: int = 5,
    fewest: int = 1,
    listed: int = 10,
    draws: int = 2000,
    title: str = "Who else goes?",
    seed: int = 0,
    **drawing: Any,
) -> Audit:
    """Whose pictures does a pipeline still draw after erasures of others? `interference`, and its card `interfered`.

    Args:
        subject: As of `interference`.
        erasures: As of `interference`.
        asked: As of `interference`.
        judge: As of `interference`.
        registry: What is known of everyone, for each erasure; as of `interfered`.
        each: Erasures with a part of their own.
        smallest_cell: Kinds of fewer entities are not shown.
        fewest: Pairs of fewer pictures are left blank.
        listed: How many names a table shows at most.
        draws: Resamples.
        title: Title of the audit.
        seed: Seed of noise and of resampling.
        **drawing: Further arguments of `interference`: `names`, `placebos`, `seeds`, `folder`, `steps`, ...

    Raises:
        InputError: As both.
    """
    check_call(remembered_by_pictures, locals())
    check_draws(draws, ALPHA)
    found = interference(subject, erasures, asked, judge=judge, seed=seed, **drawing)
    shown: dict[str, Any] = {"smallest_cell": smallest_cell, "fewest": fewest, "listed": listed, "title": title}
    return interfered(found, registry, each=each, draws=draws, seed=seed, **shown)


def pictures_of(folder: str | os.PathLike[str], arm: str) -> Tensor:
    """The pictures of one arm that `interference` kept, `(n, 3, h, w)` of bytes.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: If it has no such arm, or kept no pictures.
    """
    check_call(pictures_of, locals())
    path = as_path(folder, "folder")
    with reading(path):
        settings = read_json(path / FILE)["settings"]
    saved = Checkpoint(path, settings)
    if arm not in saved.parts:
        raise InputError(f"{path} has no arm {arm!r}: it has {', '.join(saved.parts) or 'none'}")
    with saved.reading():
        found = Arm.load(saved.path(arm)).pictures
    if found is None:
        raise InputError(f"{path} kept no pictures: draw them with pictures=True")
    return found


def _check_names(erasures: Mapping[str, Any], placebos: Mapping[str, Any], asked: Mapping[str, Sequence[str]]) -> None:
    if not erasures or not asked:
        raise InputError(f"there are {len(erasures)} erasures and {len(asked)} entities: give at least one of each")
    for name, prompts in asked.items():
        if not len(prompts):
            raise InputError(f"prompts of {name!r} are {shown(prompts)}: write a list of at least one")
        if odd := [text for text in prompts if not isinstance(text, str)]:
            raise InputError(f"a prompt of {name!r} is {shown(odd[0])}: write text")
    taken = {BEFORE, AGAIN}
    if twice := [name for name in erasures if name in taken] + [n for n in placebos if n in {*taken, *erasures}]:
        raise InputError(f"two arms are called {twice[0]!r}: give each erasure and placebo a name of its own")


def _case(
    subject: Any,
    asked: Mapping[str, Sequence[str]],
    judge: Judge,
    names: Names | None,
    seeds: int,
    batch_size: int,
    sampling: Mapping[str, Any],
) -> Case:
    jobs = [(e, q, t) for e, prompts in enumerate(asked.values()) for q in range(len(prompts)) for t in range(seeds)]
    place, query, turn = (np.array(each, dtype=np.int64) for each in zip(*jobs, strict=True))
    lists = [list(prompts) for prompts in asked.values()]
    texts = tuple(lists[e][q] for e, q, _ in jobs)
    return Case(as_view(subject), tuple(asked), place, query, turn, texts, judge, names, batch_size, dict(sampling))


def _settings(case: Case, seed: int, pictures: bool) -> dict[str, Any]:
    """What must be the same where arms are added to a folder."""
    said = getattr(case.judge, "title", None)
    parts = case.view.components
    models = [*parts.text_encoders.values(), *parts.denoisers.values(), parts.vae]
    return {
        "asked": list(case.entities),
        "prompts": list(case.prompts),
        "place": case.place.tolist(),
        "seed": seed,
        "judge": said if isinstance(said, str) else getattr(case.judge, "__qualname__", type(case.judge).__qualname__),
        "named": case.names is not None,
        "pictures": pictures,
        "sampling": {name: repr(value) for name, value in case.sampling.items()},
        "pipeline": [fingerprint(model) for model in models],
    }


def _kept(saved: Checkpoint, arm: str, n: int) -> Arm | None:
    if arm not in saved.parts:
        return None
    with saved.reading():
        found = Arm.load(saved.path(arm))
        if found.seen.shape != (n,) or len(found.shown) != n:
            raise ValueError(f"arm {arm!r} has {len(found.seen)} answers for {n} pictures")
    return found


def _drawn(
    case: Case,
    arm: str,
    system: Any,
    seeds: NDArray[np.int64],
    found: Mapping[str, Arm],
    keep: bool,
    saved: Checkpoint,
    say: Callable[[str], None] | None,
) -> Arm:
    if say is not None:
        say(f"{arm}: {len(seeds)} pictures")
    before = None if arm in (BEFORE, AGAIN) else found[BEFORE]
    one = draw_arm(case, system, seeds, before=before, keep=keep)
    saved.write({"done": [*saved.parts, arm]}, {arm: partial(one.save, name=arm)})
    return one
