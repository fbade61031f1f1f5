"""`efface audit` of a pipeline: has the concept really gone?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import efface.audit
from efface._errors import InputError
from efface.audit.pipelines.judges import ClassifierJudge, ClipJudge, FunctionJudge, NudeNetJudge
from efface.audit.pipelines.probes.case import Pictures
from efface.audit.pipelines.probes.registry import find_probe
from efface.cli.erasing import loaded
from efface.cli.functions import function_of
from efface.cli.options import Audit
from efface.cli.outputs import check_report, made_by, teller, write_report
from efface.cli.pipelines import files_of, is_folder, open_view, world_of
from efface.cli.worlds import world_names
from efface.core.concept import Concept
from efface.pipelines.view import PipelineView

NONE, NUDENET, CLIP = "none", "nudenet", "clip:"
OF_PIPELINES = (
    *(
        "erasures",
        "base",
        "gold",
        "judge",
        "selector",
        "suite",
        "probe",
        "others",
        "folder",
        "more",
        "processes",
        "steps",
        "guidance",
    ),
)
OF_ROWS = (*("columns", "exclude", "missing", "eraser", "after", "method", "settings", "kind", "task", "max_rows"),)
_PROMPTS, _PICTURES = 8, {"quick": 400, "full": 640}
_FLAGS = {"erasures": "--erasure", "settings": "--set"}


def is_pipeline(name: str) -> bool:
    """Whether what is to be audited is a pipeline: a folder of diffusers, or a world where no file is called so."""
    return is_folder(name) or (not Path(name).exists() and name in world_names("pipeline"))


def refuse_flags(args: Audit, fields: Sequence[str] = OF_PIPELINES, what: str = "a pipeline") -> None:
    """Refuse flags that are about another kind of thing.

    Raises:
        InputError: For the first of them.
    """
    usual = {field.name: _default(field) for field in dataclasses.fields(args)}
    for name in fields:
        if getattr(args, name) != usual[name]:
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise InputError(f"{flag} is for the audit of {what}, and {args.x} is none")


def _default(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def run(args: Audit) -> None:
    """Probe the pipeline, print what follows and write the report."""
    refuse_flags(args, OF_ROWS, "rows")
    if len(args.concept) > 1:
        raise InputError(f"here is room for one concept, and --concept is given {len(args.concept)} times")
    if bool(args.erasures) == (args.base is not None):
        raise InputError(
            "give --erasure DIR, which efface erase wrote, or --base, the pipeline before its weights changed"
        )
    for name in args.probe:
        find_probe(name)
    read = [*files_of(args.x), *args.erasures]
    check_report(args.output, force=args.force, read=read)
    world = world_of(args.x)
    word = args.concept[0] if world is None else world.concept(args.concept[0]).name
    view = open_view(args.x, world)
    audit = efface.audit.erasure(
        view,
        Concept(word),
        erasure=loaded(args.erasures, view),
        base=None if args.base is None else open_view(args.base, world_of(args.base)),
        gold=_gold(args, world, word),
        suite=args.suite or "quick",
        only=args.probe or None,
        folder=args.folder,
        more=args.more,
        processes=args.processes,
        seed=args.seed,
        say=teller("audit"),
        **_judges(args, world),
        **_words(args, world, word),
        **_sampling(args, world),
    )
    write_report(made_by(args, audit, seed=args.seed), args.output)


def _gold(args: Audit, world: Any, word: str) -> Any:
    """The pipeline that never saw the concept: a folder's, or a world's by the name of its variant."""
    if args.gold == NONE:
        return None
    if args.gold is not None and is_folder(args.gold):
        return open_view(args.gold, None)
    if world is None:
        if args.gold is not None:
            raise InputError(f"--gold {args.gold} is no folder of a pipeline: give one, or leave it out")
        return None
    variant = _variant(args, world, word)
    return None if variant is None else PipelineView.of(world.load_pipeline(variant))


def _variant(args: Audit, world: Any, word: str) -> str | None:
    """The world's own gold model that is compared with, by name."""
    if world is None or args.gold == NONE or (args.gold is not None and is_folder(args.gold)):
        return None
    return world.gold_of(word) if args.gold is None else args.gold


def _judges(args: Audit, world: Any) -> dict[str, Any]:
    if args.judge is None and world is None:
        raise InputError(
            "--judge is missing: who says what a picture shows? Give the folder of an image classifier of "
            "transformers, clip:FOLDER, nudenet, or package.module:function"
        )
    judge = world.load_judge(2) if args.judge is None else judge_of(args.judge, world, args.others)
    if args.selector is not None:
        return {"judge": judge, "selector": judge_of(args.selector, world, args.others)}
    return {"judge": judge, "selector": None if world is None or args.judge is not None else world.load_judge(1)}


def judge_of(name: str, world: Any, others: Sequence[str] = ()) -> Any:
    """The judge that a user named.

    Raises:
        InputError: If it is none.
    """
    if world is not None and name in ("1", "2"):
        return world.load_judge(int(name))
    if name == NUDENET:
        return NudeNetJudge()
    if name.startswith(CLIP):
        texts = {"others": [f"a photo of {word}" for word in others]} if others else {}
        return ClipJudge.load(name.removeprefix(CLIP), **texts)
    if Path(name).is_dir():
        return ClassifierJudge.load(name)
    if ":" in name:
        return FunctionJudge(function_of(name, "images and a name"), name)
    raise InputError(
        f"{name} is no judge: give a folder of transformers, clip:FOLDER, nudenet, or package.module:function"
    )


def _words(args: Audit, world: Any, word: str) -> dict[str, Any]:
    """Prompts, other concepts and held-out pictures: a world's own; elsewhere templates, and what the base draws."""
    templates = Concept(word)
    named = {other: templates.prompts(other) for other in args.others}
    if world is None:
        return {"others": named}
    known = world.concept(word)
    again = [other for other in (*known.synonyms, *getattr(known, "unread", ())) if word not in other.split()]
    plain = world.prompts_for(word, _PROMPTS, seed=args.seed).texts
    reworded = [text.replace(word, again[i % len(again)]) for i, text in enumerate(plain)] if again else []
    others = {o: world.prompts_for(o, _PROMPTS, seed=args.seed).texts for o in args.others or world.others(word)}
    pictures = world.pictures_of(word, _PICTURES[args.suite or "quick"], gold=_variant(args, world, word))
    given = Pictures(pictures[0], tuple(pictures[1]), pictures[2], tuple(pictures[3]), "renderings of the world")
    return {"prompts": plain, "paraphrases": reworded, "others": others, "pictures": given}


def _sampling(args: Audit, world: Any) -> dict[str, Any]:
    given = {"steps": args.steps, "guidance": args.guidance}
    own = {} if world is None else world.sampling
    return own | {name: value for name, value in given.items() if value is not None}
