"""Which places of a model play which role, derived from what happens in one forward pass.

A block is an element of a list of modules from whose output one gets back to its input through sums and norms alone:
that way is the residual stream. What is added on the way is what the block's branches give to it; a branch that looks
at other tokens is attention (or a state-space or convolutional mixer), one that does not is feed-forward. Norms are
the modules that normalise the stream, or what is added to it. Nothing depends on what modules are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from efface._errors import InputError
from efface.core.site import Site
from efface.core.subjects import is_spread
from efface.scrubbing.dataflow import Call, Edge, Trace, is_weight, parents, same_rows, summands, trace

ROLES: dict[str, str] = {
    "norms": "what comes out of each normalisation layer of the residual stream",
    "residual": "the residual stream as it leaves each block",
    "mlp_out": "what each feed-forward layer gives to the residual stream",
    "attn_out": "what each attention layer, or other mixer of tokens, gives to the residual stream",
}
"""The roles, and what each means."""


@dataclass(frozen=True)
class Block:
    """One block of a stream.

    Attributes:
        path: Of the block.
        calls: How often it ran.
        attn_out: Modules that give to the stream what they read at several tokens.
        mlp_out: Modules that give to it what they made of each token.
        unguarded: Inputs of modules that read the stream where no norm stands before them.
        nameless: Whether something is added that no module gives as it is.
    """

    path: str
    calls: int = 1
    attn_out: tuple[str, ...] = ()
    mlp_out: tuple[str, ...] = ()
    unguarded: tuple[Site, ...] = ()
    nameless: bool = False


@dataclass(frozen=True)
class Stream:
    """A residual stream: a chain of blocks.

    Attributes:
        path: Of the list of blocks.
        width: Its number of features.
        blocks: In the order in which they ran.
        norms: Modules that normalise it, or what is added to it.
        idle: Blocks that did not run.
    """

    path: str
    width: int
    blocks: tuple[Block, ...]
    norms: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    def paths(self, role: str) -> tuple[str, ...]:
        """Modules of a role."""
        if role == "norms":
            return self.norms
        if role == "residual":
            return tuple(block.path for block in self.blocks)
        return tuple(path for block in self.blocks for path in getattr(block, role))


@dataclass(frozen=True)
class Roles:
    """What was found in a model; printed, it says so.

    Attributes:
        owner: Name of the model's class.
        streams: The residual streams that ran.
        rejected: List of modules -> which of its elements are no blocks of a residual stream.
        idle: Lists of modules of which nothing ran.
        norms: All modules that normalise, of a model that is no list of blocks and has no residual stream.
    """

    owner: str
    streams: tuple[Stream, ...]
    rejected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()

    def sites(self, role: str) -> list[Site]:
        """The sites of a role.

        Raises:
            InputError: If there are none, or it is not certain which they are; the text says what to write.
        """
        found = [Site(path) for stream in self.streams for path in stream.paths(role)]
        if role == "norms" and self.norms:
            return [Site(path) for path in self.norms]
        if self.rejected or not self.streams:
            raise InputError(f"found no {role!r} in {self.owner}: {self._why_no_stream()}; {_instead(role)}")
        nameless = [block.path for stream in self.streams for block in stream.blocks if block.nameless]
        if nameless and role in ("attn_out", "mlp_out"):
            raise InputError(
                f"it is not certain where the {role!r} of {self.owner} are: {_some(nameless)} add something to the "
                f"residual stream that no module in there gives as it is; {_instead(role)}"
            )
        if not found:
            raise InputError(f"found no {role!r} in {self.owner}: {self._what_there_is(role)}; {_instead(role)}")
        return found

    @property
    def unguarded(self) -> list[Site]:
        """Inputs of modules that read the stream where no norm stands before them: erasing at norms misses them."""
        return [site for stream in self.streams for block in stream.blocks for site in block.unguarded]

    def _why_no_stream(self) -> str:
        if self.rejected:
            path, bad = next(iter(self.rejected.items()))
            return f"what {_some(bad)} (of {path or 'the model'}) give is not what they are given plus what they add"
        return f"it has no list of blocks that ran{f' ({_some(self.idle)} did not)' if self.idle else ''}"

    def _what_there_is(self, role: str) -> str:
        other = {"attn_out": "mlp_out", "mlp_out": "attn_out"}.get(role)
        there = [path for stream in self.streams for path in stream.paths(other)] if other else []
        if not there:
            return "its blocks have none"
        looks = "look at several tokens" if role == "mlp_out" else "look at one token alone"
        return f"all that its blocks add to the residual stream ({_some(there)}) {looks}"

    def __repr__(self) -> str:
        lines = [f"Roles({self.owner})"]
        for stream in self.streams:
            lines.append(f"  {stream.path}: {len(stream.blocks)} blocks, {stream.width} wide{_times(stream)}")
            for role in ("norms", "attn_out", "mlp_out"):
                paths = stream.paths(role)
                lines.append(f"    {role}: {len(paths)}{': ' if paths else ''}{', '.join(_globs(paths))}")
            unguarded = [str(site) for block in stream.blocks for site in block.unguarded]
            if unguarded:
                lines.append(f"    read without a norm: {', '.join(_globs(unguarded))}")
            if stream.idle:
                lines.append(f"    did not run: {', '.join(_globs(stream.idle))}")
        lines += [f"  no residual stream; norms: {', '.join(_globs(self.norms))}"] * bool(self.norms)
        lines += [f"  {path}: no blocks of a residual stream" for path in self.rejected]
        lines += [f"  {path}: did not run" for path in self.idle]
        return "\n".join(lines)


def _instead(role: str) -> str:
    return f"give sites= as module paths or globs ('model.layers.*.mlp'), or table={{{role!r}: 'path.of.them.*'}}"


def _some(paths: Iterable[str]) -> str:
    paths = list(dict.fromkeys(paths))
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _times(stream: Stream) -> str:
    calls = max(block.calls for block in stream.blocks)
    return f", each run up to {calls} times" if calls > 1 else ""


def _globs(paths: Iterable[str]) -> list[str]:
    """Paths that differ in one number as one line: `h.*.mlp (4)`."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(re.sub(r"\.\d+(?=\.|:|$)", ".*", path, count=1), []).append(path)
    return [each[0] if len(each) == 1 else f"{glob} ({len(each)})" for glob, each in groups.items()]


def advice(sites: Iterable[Site]) -> list[str]:
    """Sites as the shortest list of globs."""
    return list(dict.fromkeys(re.sub(r"\.\d+(?=\.|:|$)", ".*", str(site), count=1) for site in sites))


# ------------------------------------------------------------------------------------------------ finding them


def seen_roles(model: nn.Module, inputs: Mapping[str, Any]) -> Roles:
    """The roles of the modules of a model, as one forward pass shows them.

    Args:
        model: Any module that is made of blocks.
        inputs: Keyword arguments of a small forward pass: what does not run in it plays no role.

    Raises:
        InputError: If the model does not run on them, or its parameters lie in several processes.
    """
    if is_spread(model):
        raise InputError(
            f"parameters of {type(model).__name__} lie in several processes, where no roles can be seen: find the "
            "sites before that, sites = efface.find_sites(model, 'norms', inputs=...), and pass these"
        )
    return _Finder(model, trace(model, inputs)).roles()


@dataclass
class _Way:
    """How the stream gets from the input of a block to what it gives.

    Attributes:
        call: The call of the block.
        stream: The edges that are the stream, in order.
        added: What is added on the way.
        norms: Calls of the norms that it goes through.
    """

    call: Call
    stream: list[Edge]
    added: list[Edge]
    norms: list[Call]


@dataclass
class _Branch:
    """What one branch of a block gives to the stream: the call that does, and whether it reads other tokens too."""

    giver: Call
    mixes: bool | None
    unguarded: list[Edge]


class _Finder:
    def __init__(self, model: nn.Module, seen: Trace) -> None:
        self._model, self._trace = model, seen
        self._ways: dict[str, list[_Way]] = {}
        self._rejected: dict[str, tuple[str, ...]] = {}
        self._others: dict[str, tuple[str, ...]] = {}
        self._idle: list[str] = []

    def roles(self) -> Roles:
        lists = self._lists()
        ways = {path: [w for call in self._calls_of(path) for w in self._ways[call]] for path in lists}
        stream = {edge: path for path, each in ways.items() for way in each for edge in way.stream}
        norms = self._norms_of(ways, stream)
        found = [self._stream(path, ways[path], stream, norms) for path in lists]
        rejected = self._rejected or ({} if found else self._others)
        owner = type(self._model).__name__
        if found or rejected or self._idle:
            return Roles(owner, tuple(found), rejected, tuple(self._idle))
        norms = (c.path for c in self._trace.calls if c.given and c.given != c.gives and self._trace.is_norm(c))
        return Roles(owner, (), norms=tuple(dict.fromkeys(norms)))

    # --------------------------------------------------------------------------------------- lists of blocks

    def _lists(self) -> list[str]:
        """Paths of the outermost lists of modules whose elements are all blocks, if they ran."""
        found: list[str] = []
        for path, module in self._model.named_modules():
            if not _is_list(module) or _below(path, [*found, *self._rejected]):
                continue
            ran = self._calls_of(path)
            for child in ran:
                ways = [self._way(call) for call in self._calls(child)]
                self._ways[child] = [way for way in ways if way is not None] if None not in ways else []
            bad = tuple(child for child in ran if not self._ways[child])
            if ran and not bad:
                found.append(path)
            elif 0 < len(bad) < len(ran):
                self._rejected[path] = bad
            elif not ran and any(not _is_list(c) and any(True for _ in c.children()) for c in module.children()):
                self._idle.append(path)
            elif bad and all(self._could_be_block(child) for child in bad):
                self._others[path] = bad
        self._idle = [path for path in self._idle if not _below(path, [*found, *self._rejected, *self._idle])]
        return found

    def _could_be_block(self, path: str) -> bool:
        """Whether a module gives what it is given, in shape."""
        return any(True for _ in self._model.get_submodule(path).children()) and all(
            c.x is not None and c.y is not None and c.x.shape == c.y.shape for c in self._calls(path)
        )

    def _calls_of(self, path: str) -> list[str]:
        """The elements of a list that ran, in order."""
        parts = [f"{path}.{name}" if path else name for name, _ in self._model.get_submodule(path).named_children()]
        ran = dict.fromkeys(call.path for call in self._trace.calls)
        return sorted((part for part in parts if part in ran), key=list(ran).index)

    def _calls(self, path: str) -> list[Call]:
        return [call for call in self._trace.calls if call.path == path]

    def _way(self, call: Call) -> _Way | None:
        """The way of the stream through one call of a block; None if it is none."""
        x, y = call.x, call.y
        if call.given is None or call.gives is None or x is None or y is None or x.shape != y.shape or x.ndim < 2:
            return None
        way = self._back(call.gives, call.given, call)
        return way if way is not None and way.added else None

    def _back(self, edge: Edge, start: Edge, call: Call) -> _Way | None:
        if edge == start:
            return _Way(call, [edge], [], [])
        norm = self._norm_that_gave(edge)
        above = None
        added: list[Edge] = []
        norms: list[Call] = []
        if norm is not None and norm.given is not None:
            above, norms = self._back(norm.given, start, call), [norm]
        elif (pair := summands(edge)) is not None:
            ways = [self._back(each, start, call) for each in pair]
            if all(ways) or not any(ways):
                return None
            above, added = (ways[0], [pair[1]]) if ways[0] else (ways[1], [pair[0]])
        else:
            _, *before = same_rows(edge)
            above = self._back(before[0], start, call) if before else None
        if above is None:
            return None
        return _Way(call, [*above.stream, edge], [*above.added, *added], [*above.norms, *norms])

    def _norm_that_gave(self, edge: Edge) -> Call | None:
        calls = self._trace.by_edge.get(edge, ())
        return next((c for c in calls if c.given is not None and c.given != edge and self._trace.is_norm(c)), None)

    # ------------------------------------------------------------------------------------------ what is in one

    def _stream(self, path: str, ways: list[_Way], every: Mapping[Edge, str], norms: Mapping[str, set[str]]) -> Stream:
        blocks: dict[str, Block] = {}
        for way in ways:
            block = self._block(way, every)
            known = blocks.get(block.path)
            blocks[block.path] = block if known is None else replace(known, calls=known.calls + 1)
        module = self._model.get_submodule(path)
        parts = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        idle = tuple(part for part in parts if part not in blocks)
        width = ways[0].call.y.shape[-1]  # type: ignore[union-attr]
        order = [call.path for call in self._trace.calls if call.path in norms[path]]
        return Stream(path, width, tuple(blocks.values()), tuple(dict.fromkeys(order)), idle)

    def _block(self, way: _Way, every: Mapping[Edge, str]) -> Block:
        branches: list[_Branch] = []
        nameless = False
        for edge in way.added:
            found = self._givers(edge, way.call)
            nameless |= None in found
            branches += [self._branch(giver, way, every) for giver in found if giver is not None]
        nameless |= any(branch.mixes is None for branch in branches)
        readers = [edge for branch in branches for edge in branch.unguarded]
        return Block(
            way.call.path,
            attn_out=tuple(dict.fromkeys(b.giver.path for b in branches if b.mixes)),
            mlp_out=tuple(dict.fromkeys(b.giver.path for b in branches if b.mixes is False)),
            unguarded=tuple(dict.fromkeys(site for edge in readers if (site := self._reader(edge, way)) is not None)),
            nameless=nameless,
        )

    def _givers(self, edge: Edge, block: Call) -> list[Call | None]:
        """The calls in a block whose output this edge is; of a sum that no module gives, those of its parts."""
        calls = [call for each in same_rows(edge) for call in self._trace.by_edge.get(each, ())]
        inside = [call for call in calls if call.path.startswith(f"{block.path}.") and call.y is not None]
        if inside:
            # the outermost; of several the first, as dropout and the like pass on what they get
            order = {id(call): i for i, call in enumerate(self._trace.calls)}
            return [min(inside, key=lambda call: (call.depth, order[id(call)]))]
        *_, last = same_rows(edge)
        if is_weight(last):
            return []  # the same for every token
        pair = summands(last)
        return [None] if pair is None else [giver for each in pair for giver in self._givers(each, block)]

    def _branch(self, giver: Call, way: _Way, every: Mapping[Edge, str]) -> _Branch:
        """What a branch reads of its own stream, and of others."""
        own = {edge: i for i, edge in enumerate(way.stream)}
        read: set[int] = set()
        unguarded: list[Edge] = []
        others = False
        ahead, seen = [(giver.gives, False)], set()
        while ahead:
            edge, guarded = ahead.pop()
            if edge is None or (edge, guarded) in seen:
                continue
            seen.add((edge, guarded))
            if edge in own or edge in every:
                read |= {own[edge]} if edge in own else set()
                others |= edge not in own and every[edge] != every[way.stream[0]]
                if not guarded and not self._is_norms_output(edge):
                    unguarded.append(edge)
                continue
            norm = self._norm_that_gave(edge)
            guards = norm is not None and norm.given in every
            ahead += [(each, guarded or guards) for each in parents(edge)]
        mixes = others or (bool(read) and self._trace.mixes(giver, way.stream[max(read)]))
        return _Branch(giver, mixes, unguarded)

    def _is_norms_output(self, edge: Edge) -> bool:
        return any(self._norm_that_gave(each) is not None for each in same_rows(edge))

    def _reader(self, edge: Edge, way: _Way) -> Site | None:
        """The outermost module in a block that takes what lies at an edge and is no norm."""
        takers = [
            call
            for call in self._trace.calls
            if call.path.startswith(f"{way.call.path}.") and call.given == edge and not self._trace.is_norm(call)
        ]
        if not takers:
            return Site(way.call.path, "input") if edge == way.call.given else None
        return Site(min(takers, key=lambda call: call.depth).path, "input")

    # ----------------------------------------------------------------------------------------------- norms

    def _norms_of(self, ways: Mapping[str, list[_Way]], stream: Mapping[Edge, str]) -> dict[str, set[str]]:
        """List of blocks -> paths of the norms of its stream, those before and behind it too."""
        found: dict[str, set[str]] = {path: set() for path in ways}
        added = {e: path for path, each in ways.items() for way in each for a in way.added for e in same_rows(a)}
        begins = {e: path for path, each in ways.items() for way in each for e in same_rows(way.stream[0])}
        for call in self._trace.calls:
            if call.given is None or call.gives is None or not self._may_be_norm(call):
                continue
            reads = next((stream[e] for e in same_rows(call.given) if e in stream), None)
            gives = added.get(call.gives) or stream.get(call.gives) or begins.get(call.gives)
            path = reads or gives
            if path is not None and self._trace.is_norm(call):
                found[path].add(call.path)
        return found

    def _may_be_norm(self, call: Call) -> bool:
        return call.x is not None and call.y is not None and call.x.shape == call.y.shape


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential | nn.ModuleDict)


def _below(path: str, others: Iterable[str]) -> bool:
    return any(path != other and (not other or path.startswith(f"{other}.")) for other in others)
