"""Sites: places inside a model, addressed by path, glob, regular expression or role."""

from __future__ import annotations

import difflib
import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from torch import nn

from efface._errors import EffaceWarning, InputError
from efface._text import shown
from efface._validate import check_type
from efface.core.doors import check_call, fits
from efface.core.site import Site
from efface.core.subjects import base_path
from efface.scrubbing.examples import candidates
from efface.scrubbing.forward import bare
from efface.scrubbing.roles import ROLES, Roles, advice, seen_roles

_SLICED = re.compile(r"^(?P<role>\w+)\[(?P<start>-?\d*):(?P<stop>-?\d*)\]$")


SitesLike: TypeAlias = "str | Site | re.Pattern[str] | Iterable[str | Site | re.Pattern[str]]"


def find_roles(model: nn.Module, inputs: Mapping[str, Any] | None = None) -> Roles:
    """Where the roles of a model are, as one small forward pass shows; printed, it says what was found.

    Args:
        model: Any module that is made of blocks; wrappers are looked through.
        inputs: Keyword arguments of the pass; None makes some for a Hugging Face model. What does not run in it, as
            the vision tower of a model that is given text alone, plays no role.

    Raises:
        InputError: If the model does not run on them, or it is not known what it takes.
    """
    check_call(find_roles, locals())
    model = bare(model)
    if inputs is not None:
        return seen_roles(model, inputs)
    failed = None
    for made in candidates(model):
        try:
            return seen_roles(model, made)
        except InputError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def find_sites(
    model: nn.Module,
    sites: SitesLike,
    *,
    table: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> list[Site]:
    """The sites that an address stands for, in the order of `model.named_modules()`.

    Args:
        model: Any module; wrappers (compiled, DataParallel, PEFT) are looked through.
        sites: One address or several:
            a role, `"norms"`, `"residual"`, `"mlp_out"` or `"attn_out"`, or some of it, `"residual[4:8]"`;
            a module path or a glob over paths (`*` one step, `**` any number), from the model or from its base model,
            with `:input` or `:output` and an index if need be;
            a regular expression that matches the whole path, `"re:..."` or compiled;
            a `Site`.
        table: Role -> patterns: your word, which goes before what is seen.
        inputs: For roles, keyword arguments of a small forward pass, as for `find_roles`.

    Raises:
        InputError: If an address matches nothing (the text names those that come near), or it is not certain what
            plays a role.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    >>> [str(site) for site in find_sites(model, ["norms", "0:input"], inputs={"input": torch.randn(3, 2)})]
    ['0:input', '1']
    """
    check_call(find_sites, locals())
    return SiteFinder(bare(model), table, inputs).find(sites)


def several(sites: Any) -> list[Any]:
    """Addresses as a list.

    Raises:
        InputError: If they are neither one nor any number of them.
    """
    if isinstance(sites, str | Site | re.Pattern):
        return [sites]
    if hasattr(sites, "ndim") or not fits(sites, Iterable[Any]):
        raise InputError(f"sites={shown(sites)}: write one or a list, such as 'norms', or addresses of modules")
    return [*sites]


class SiteFinder:
    """What addresses stand for in one model. Its forward pass, for roles, is made once, and only if it is needed.

    Args:
        model: The model, without wrappers.
        table: As for `find_sites`.
        inputs: As for `find_sites`, or a function that makes them when they are needed.
    """

    def __init__(
        self,
        model: nn.Module,
        table: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        check_type(model, nn.Module, "the model")
        self._model, self._table, self._inputs = model, table or {}, inputs
        self._paths = [name for name, _ in model.named_modules()]
        self._seen: Roles | None = None

    def find(self, sites: SitesLike) -> list[Site]:
        """As `find_sites`."""
        wanted = several(sites)
        if not wanted:
            raise InputError(f"sites is empty: name at least one, such as {', '.join(map(repr, ROLES))}")
        found = {site for address in wanted for site in self._find(address)}
        order = {path: i for i, path in enumerate(self._paths)}
        return sorted(found, key=lambda site: (order[site.path], site.where, str(site.index)))

    def _find(self, address: Any) -> list[Site]:
        model, paths = self._model, self._paths
        if isinstance(address, Site):
            matching = _matching(model, paths, re.escape(address.path), address)
            return [Site(path, address.where, address.index) for path in matching]
        if isinstance(address, re.Pattern):
            return [Site(path) for path in _matching(model, paths, address.pattern, address)]
        if not isinstance(address, str):
            kind = type(address).__name__
            raise InputError(f"a site is a string, a Site or a compiled pattern, not {kind}: {shown(address)}")
        if address.startswith("re:"):
            return [Site(path) for path in _matching(model, paths, address[3:], address)]
        sliced = _SLICED.match(address)
        role, part = (sliced["role"], _slice(sliced)) if sliced else (address, slice(None))
        if role in ROLES or role in self._table:
            every = self._of_role(role)
            if not every[part]:
                raise InputError(f"{address!r} takes none of the {len(every)} sites of {role!r} in {_name(model)}")
            return every[part]
        return _of_glob(model, paths, address)

    def _of_role(self, role: str) -> list[Site]:
        """The sites of a role, in the order of the modules of the model."""
        found = self._by_table(role) if role in self._table else self._by_sight(role)
        order = {path: i for i, path in enumerate(self._paths)}
        return sorted(dict.fromkeys(found), key=lambda site: order[site.path])

    def _by_table(self, role: str) -> list[Site]:
        given = self._table[role]
        patterns = (given,) if isinstance(given, str) else tuple(given)
        found = [site for pattern in patterns for site in _of_glob(self._model, self._paths, pattern, must_match=False)]
        if not found:
            raise InputError(
                f"the table for {role!r} matches nothing in {_name(self._model)}: its patterns are "
                f"{', '.join(patterns)}; pass sites= as module paths, or table={{{role!r}: ...}}"
            )
        return found

    def _by_sight(self, role: str) -> list[Site]:
        if self._seen is None:
            self._seen = find_roles(self._model, self._inputs() if callable(self._inputs) else self._inputs)
        found = self._seen.sites(role)
        if role == "norms" and self._seen.unguarded:
            more = [f"'{address}'" for address in advice(self._seen.unguarded)]
            warnings.warn(
                f"the norms of {_name(self._model)} do not stand before all that reads the residual stream: what "
                f"{', '.join(more)} is given stays as it is. To erase there too, write "
                f"sites=['norms', {', '.join(more)}]",
                EffaceWarning,
                stacklevel=6,
            )
        return found


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _slice(match: re.Match[str]) -> slice:
    return slice(*(int(match[name]) if match[name] else None for name in ("start", "stop")))


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


def _near(paths: list[str], given: Any) -> str:
    wanted = re.sub(r"[\\^$()]", "", str(getattr(given, "pattern", given))).removeprefix("re:").split(":")[0]
    close = difflib.get_close_matches(wanted, paths, n=3, cutoff=0.6)
    last = wanted.rpartition(".")[2]
    ends = [path for path in paths if last and path.rpartition(".")[2] == last][:3]
    near = list(dict.fromkeys(ends + close))[:3] or difflib.get_close_matches(wanted, paths, n=3, cutoff=0.3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"paths look like {paths[1:4]}"
