"""Sites: places inside a model, addressed by path, glob, regular expression or role."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from torch import nn

from efface._errors import InputError
from efface.core.site import Site
from efface.core.subjects import unwrapped
from efface.scrubbing.architectures import ROLES, patterns

_SLICED = re.compile(r"^(?P<role>\w+)\[(?P<start>-?\d*):(?P<stop>-?\d*)\]$")


SitesLike: TypeAlias = "str | Site | re.Pattern[str] | Iterable[str | Site | re.Pattern[str]]"


def find_sites(model: nn.Module, sites: SitesLike, *, table: Mapping[str, Any] | None = None) -> list[Site]:
    """The sites that an address stands for, in the order of `model.named_modules()`.

    Args:
        model: Any module; wrappers (compiled, DataParallel, PEFT) are looked through.
        sites: One address or several:
            a role, `"norms"`, `"residual"`, `"mlp_out"` or `"attn_out"`, or some of it, `"residual[4:8]"`;
            a module path or a glob over paths (`*` one step, `**` any number), from the model or from its base model,
            with `:input` or `:output` and an index if need be;
            a regular expression that matches the whole path, `"re:..."` or compiled;
            a `Site`.
        table: Role -> patterns, for a model that the tables of architectures do not know or get wrong.

    Raises:
        InputError: If an address matches nothing; the text names those that come near.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    >>> [str(site) for site in find_sites(model, ["norms", "0:input"])]
    ['0:input', '1']
    """
    model = unwrapped(model)
    wanted = [sites] if isinstance(sites, (str, Site, re.Pattern)) else list(sites)
    if not wanted:
        raise InputError(f"sites is empty: name at least one, such as {', '.join(map(repr, ROLES))}")
    paths = [name for name, _ in model.named_modules()]
    found = {site for address in wanted for site in _find(model, paths, address, table)}
    order = {path: i for i, path in enumerate(paths)}
    return sorted(found, key=lambda site: (order[site.path], site.where, str(site.index)))


def _find(model: nn.Module, paths: list[str], address: Any, table: Mapping[str, Any] | None) -> list[Site]:
    if isinstance(address, Site):
        return [
            Site(path, address.where, address.index)
            for path in _matching(model, paths, re.escape(address.path), address)
        ]
    if isinstance(address, re.Pattern):
        return [Site(path) for path in _matching(model, paths, address.pattern, address)]
    if not isinstance(address, str):
        raise InputError(f"a site is a string, a Site or a compiled pattern, not {type(address).__name__}: {address!r}")
    if address.startswith("re:"):
        return [Site(path) for path in _matching(model, paths, address[3:], address)]
    sliced = _SLICED.match(address)
    role, part = (sliced["role"], _slice(sliced)) if sliced else (address, slice(None))
    if role in ROLES or (table is not None and role in table):
        every = _of_role(model, paths, role, table)
        if not every[part]:
            raise InputError(f"{address!r} takes none of the {len(every)} sites of {role!r} in {type(model).__name__}")
        return every[part]
    return _of_glob(model, paths, address)


def _slice(match: re.Match[str]) -> slice:
    return slice(*(int(match[name]) if match[name] else None for name in ("start", "stop")))


def _of_role(model: nn.Module, paths: list[str], role: str, table: Mapping[str, Any] | None) -> list[Site]:
    given = patterns(model, role, table)
    found = {site for pattern in given for site in _of_glob(model, paths, pattern, must_match=False)}
    if not found:
        raise InputError(
            f"the table for {role!r} matches nothing in {type(model).__name__}: its patterns are {', '.join(given)}; "
            f"pass sites= as module paths, or table={{{role!r}: ...}}"
        )
    order = {path: i for i, path in enumerate(paths)}
    return sorted(found, key=lambda site: order[site.path])


def _of_glob(model: nn.Module, paths: list[str], address: str, *, must_match: bool = True) -> list[Site]:
    site = Site.parse(address)
    matching = _matching(model, paths, _expression(site.path), address, must_match=must_match)
    return [Site(path, site.where, site.index) for path in matching]


def _expression(glob: str) -> str:
    """A regular expression for a glob over dotted paths.

    >>> bool(re.fullmatch(_expression("**.h.*"), "model.h.3")), bool(re.fullmatch(_expression("h.*"), "h.3.mlp"))
    (True, False)
    """
    parts = glob.split(".")
    out = ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            out += r"[^.]+(?:\.[^.]+)*" if last else r"(?:[^.]+\.)*"
        else:
            body = fnmatch.translate(part).removeprefix("(?s:").removesuffix(")\\Z").removesuffix(")\\z")
            out += body.replace(".", "[^.]") + ("" if last else r"\.")
    return out


def _matching(model: nn.Module, paths: list[str], expression: str, given: Any, *, must_match: bool = True) -> list[str]:
    try:
        regex = re.compile(expression)
    except re.error as error:
        raise InputError(f"{given!r} is no regular expression: {error}") from None
    below = f"{base}." if (base := base_path(model)) else ""
    found = [
        path
        for path in paths
        if regex.fullmatch(path) or (below and path.startswith(below) and regex.fullmatch(path[len(below) :]))
    ]
    if must_match and not found:
        raise InputError(f"no module of {type(model).__name__} matches {given!r}: {_near(paths, given)}")
    return found


def base_path(model: nn.Module) -> str:
    """Path of the model without its head, such as `"model"`; empty if it has no head."""
    prefix = getattr(model, "base_model_prefix", "")
    return prefix if prefix and isinstance(getattr(model, prefix, None), nn.Module) else ""


def _near(paths: list[str], given: Any) -> str:
    wanted = re.sub(r"[\\^$()]", "", str(getattr(given, "pattern", given))).removeprefix("re:").split(":")[0]
    close = difflib.get_close_matches(wanted, paths, n=3, cutoff=0.6)
    last = wanted.rpartition(".")[2]
    ends = [path for path in paths if last and path.rpartition(".")[2] == last][:3]
    near = list(dict.fromkeys(ends + close))[:3] or difflib.get_close_matches(wanted, paths, n=3, cutoff=0.3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"paths look like {paths[1:4]}"
