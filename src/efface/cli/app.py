"""The commands as typer sees them, made from `options`; what a command needs is imported when it runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import math
import shlex
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from efface._errors import InputError
from efface.cli import options, pipeline_options
from efface.cli.completion import complete_methods, complete_settings, complete_worlds
from efface.cli.flags import Options

COMMANDS: dict[str, tuple[type[Options], str]] = {
    "demo": (options.Demo, "efface.cli.demo"),
    "fit": (options.Fit, "efface.cli.fit"),
    "apply": (options.Apply, "efface.cli.apply"),
    "audit": (options.Audit, "efface.cli.audit"),
    "remember": (options.Remember, "efface.cli.remember"),
    "erase": (pipeline_options.Erase, "efface.cli.erase"),
    "export": (pipeline_options.Export, "efface.cli.export"),
    "generate": (pipeline_options.Generate, "efface.cli.generate"),
    "explain": (options.Explain, "efface.cli.explain"),
    "methods": (options.Methods, "efface.cli.methods"),
}
"""Name of a command -> what it is asked for, and the module whose `run` does it."""

_WIDTH = 110
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "N": (lambda n: n >= 1, "at least 1"),
    "SEED": (lambda n: 0 <= n < 2**32, "an integer from 0 on, below 2**32"),
    "SCALE": (math.isfinite, "a number, e.g. 5"),
    "PIXELS": (lambda x: 0 < x < math.inf, "a number above 0"),
    "RATE": (lambda x: 0 < x < math.inf, "a number above 0, e.g. 0.0001"),
    "SHARE": (lambda x: 0 <= x <= 1, "a number from 0 to 1"),
}
"""What stands for a value in the help -> which values can be, and how to say so."""
_MAY_BE_EMPTY = ("TEXT", "WORD", "CONCEPT")
"""What stands in the help for texts and words: a prompt can be empty, and an anchor."""


def run(argv: Sequence[str]) -> int:
    """Run one command; returns its exit status.

    Raises:
        InputError: If the command or a flag is wrong; the text names what comes near.
    """
    command = typer.main.get_command(make_app(shlex.join(["efface", *argv])))
    try:
        status = command.main(args=list(argv) or ["--help"], prog_name="efface", standalone_mode=False)
    except typer.TyperException as error:
        raise InputError(_wrong_usage(error)) from error
    return status or 0


def make_app(line: str) -> typer.Typer:
    """The commands, which note in what they write by which command line they were called."""
    app = typer.Typer(
        help="Erase a concept from embeddings or pipelines, show whether it is gone, and explain classifiers.",
        rich_markup_mode=None,  # rich would double the time of --help
        context_settings={"max_content_width": _WIDTH, "help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, (asked, module) in COMMANDS.items():
        text = _help(asked)
        app.command(name, cls=_Command, help=text, short_help=text.partition("\n")[0])(_function(asked, module, line))
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(f"efface {importlib.metadata.version('efface')}")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version, help="the version")]


def _root(version: _Version = False) -> None:
    """What may stand before the command."""


class _Command(TyperCommand):
    """A command that takes each flag as often as it can use it.

    Its help, after `--method NAME`, says what that method can be told.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            values, _, given = self.make_parser(ctx).parse_args(args=list(args))
            _check_given_once(given)
            _check_not_empty(values, given)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        named, subject = ctx.params.get("method"), COMMANDS[ctx.info_name][0].subject
        for name in named if isinstance(named, list) else [named]:
            if name:
                lines = importlib.import_module("efface.cli.methods").method_lines(name, subject)
                formatter.write("\n" + "\n".join(lines) + "\n")


def _help(asked: type[Options]) -> str:
    """The docstring, whose indented paragraphs are not to be wrapped."""
    parts = inspect.cleandoc(asked.__doc__ or "").split("\n\n")
    return "\n\n".join(f"\b\n{part}" if part.startswith("  ") else part for part in parts)


def _function(asked: type[Options], module: str, line: str) -> Callable[..., None]:
    """A function with the signature that typer reads, from the fields of a dataclass: its own, then its bases'."""
    hints = typing.get_type_hints(asked)
    order = [name for base in asked.__mro__ for name in vars(base).get("__annotations__", ())]
    given = sorted((f for f in fields(asked) if f.metadata), key=lambda f: order.index(f.name))
    parameters = [_parameter(f, hints[f.name], asked.subject) for f in given]

    def call(**values: Any) -> None:
        _check_one_of(asked, values)
        importlib.import_module(module).run(asked(**values, command_line=line))

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _parameter(field: Field[Any], hint: Any, subject: str | None) -> inspect.Parameter:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    default = inspect.Parameter.empty if default is MISSING else default
    info = Annotated[hint, _info(field, subject)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=info)


def _info(field: Field[Any], subject: str | None) -> Any:
    shown = {name: field.metadata[name] for name in ("help", "metavar")}
    if field.metadata["names"] is None:
        kind = field.metadata["world"]
        complete = complete_methods(None) if field.name == "name" else complete_worlds(kind) if kind else None
        return typer.Argument(**shown, autocompletion=complete)
    more: dict[str, Any] = {"callback": _in_range(shown["metavar"])} if shown["metavar"] in _RANGES else {}
    if field.name == "settings":
        more = {"autocompletion": complete_settings(subject)}
    elif field.name == "method":
        # Eager, so that `--method help` and `--method NAME --help` need nothing else.
        more = {"autocompletion": complete_methods(subject), "callback": _listing(subject), "is_eager": True}
    return typer.Option(*field.metadata["names"], **shown, **more)


def _in_range(metavar: str) -> Callable[..., Any]:
    test, expected = _RANGES[metavar]

    def check(param: typer.CallbackParam, value: Any) -> Any:
        if value is not None and not test(value):
            raise InputError(f"{param.opts[-1]} {value}: write {expected}")
        return value

    return check


def _listing(subject: str | None) -> Callable[[Any], Any]:
    def answer(value: Any) -> Any:
        if value == "help" or (isinstance(value, list) and "help" in value):
            print("\n".join(importlib.import_module("efface.cli.methods").subject_lines(subject)))
            raise typer.Exit
        return value

    return answer


def _check_one_of(asked: type[Options], given: Mapping[str, Any]) -> None:
    names = {field.name: field.metadata["names"] or (f"--{field.name}",) for field in fields(asked) if field.metadata}
    for group in asked.one_of:
        named = [_long(names[name]) for name in group if given[name] not in (None, [])]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named)} do not go together: give one of the two")


def _check_given_once(given: Sequence[Any]) -> None:
    """Of a flag with one value the last would count, and the others be lost."""
    for param in given:
        if param.param_type_name == "option" and not (param.multiple or param.is_flag) and given.count(param) > 1:
            several = (param.metavar or "").endswith(",...")
            write = f"write {param.metavar}, with commas between" if several else "give one"
            raise InputError(
                f"{_long(param.opts)} is given {given.count(param)} times, and the last would count: {write}"
            )


def _check_not_empty(values: Mapping[str, Any], given: Sequence[Any]) -> None:
    """An empty name, as of a variable of the shell that is not set, would be the folder one is in, or all columns."""
    for param in given:
        value = values.get(param.name)
        if "" in (value if isinstance(value, list | tuple) else [value]) and param.metavar not in _MAY_BE_EMPTY:
            name = param.metavar if param.param_type_name == "argument" else f"{_long(param.opts)} {param.metavar}"
            raise InputError(f"{name} is given an empty name: write one, or leave it out")


def _long(names: Sequence[str]) -> str:
    """The first of a flag's names that is spelled out."""
    return next(name for name in names if name.startswith("--"))


def _wrong_usage(error: typer.TyperException) -> str:
    """What is wrong with a command line, in one line."""
    near = getattr(error, "possibilities", None)
    said = " ".join((error.message if near else error.format_message()).split()).replace("Value error, ", "")
    hint = f". Did you mean {near[0]!r}?" if near else ""
    context = getattr(error, "ctx", None)
    return said + hint + (f" (see {context.command_path} --help)" if context else "")
