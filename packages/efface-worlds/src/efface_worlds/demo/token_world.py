"""A language model of Python without the lexical type of its tokens: what that costs it, and what probes still read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import efface.audit
from efface.audit.audit import Audit
from efface.scrubbing.collecting import collect
from efface.scrubbing.fitting import scrub
from efface.scrubbing.scrubber import Scrubber
from efface_worlds.demo import Say
from efface_worlds.tokens import TokenWorld, load_token_model, make_tokens, next_token_nats, unigram_bits_per_byte

METHODS = {"leace": "LEACE", "orth": "SAL / orthogonal"}
"""Method -> what it is called on the page. With one-hot labels SAL takes out the span of the class means, as `orth`."""

RANDOM = "random"


@dataclass(frozen=True)
class TokenSizes:
    """How much of the token world is used.

    Attributes:
        length: Tokens in a sequence.
        fit: Training sequences that erasers are fitted on.
        files: Training files that these are drawn from.
        score: Held-out sequences on which the whole model is scored.
        score_sites: Those of them on which single sites are scored.
        other: Sequences of other training files, for probes alone.
        rows: Tokens that probes see, of those files and of held-out ones.
    """

    length: int = 128
    fit: int = 300
    files: int = 120
    score: int = 48
    score_sites: int = 16
    other: int = 40
    rows: int = 1500


FULL = TokenSizes(length=256, fit=2000, files=500, score=240, score_sites=120, other=240, rows=6000)
"""What the benchmark uses."""


def tokens(
    seed: int, say: Say, *, arch: Literal["llama", "gpt_neox"] = "llama", sizes: TokenSizes = TokenSizes()
) -> Audit:
    """Erase the lexical type of tokens from a language model of Python, and see what that costs it."""
    model = load_token_model(arch)
    say(f"tokens: reading Python source, {arch} with {model.num_parameters() / 1e6:.1f} M parameters")
    train, other = _training_files(sizes, seed)
    heldout = make_tokens("heldout", length=sizes.length, sequences=sizes.score, seed=seed)
    fitted = {}
    for method, called in METHODS.items():
        say(f"tokens: scrubbing {len(train)} sequences with {called}, norm after norm")
        data = {"input_ids": train.input_ids}
        options = {"sites": "norms", "method": method, "batch_size": 16}
        fitted[called] = scrub(model, data, train.lexical_type, activations="memory", **options)
    say("tokens: scoring held-out files")
    losses = _losses(model, train, heldout, fitted, sizes.score_sites, seed, say)
    leace = fitted[METHODS["leace"]]
    probes = []
    for where, world in (("other training files", other), ("held-out modules", heldout)):
        say(f"tokens: probing each norm before and after LEACE on {where}")
        probes.append(_probes(model, world, leace, sizes.rows, seed, where))
    about = (
        f"A causal language model ({arch}, {model.num_parameters() / 1e6:.1f} M parameters) was trained on the source "
        "of Python's standard library; it ships with efface-worlds. The concept is the lexical type of each token "
        f"({', '.join(train.names)}), which Python's own tokenizer gives exactly: the offline counterpart of parts of "
        f"speech. Erasers are fitted on {train.lexical_type.ge(0).sum():,} tokens of {len(set(train.files))} files, "
        f"one norm after the other. Losses are of {len(set(heldout.files))} held-out modules that neither the model "
        "nor the erasers have seen; probes are asked on those, and on other files of the training split. All are "
        "modules: the held-out split has no tests, which half of the training files are. What is read on held-out "
        "modules alone is the shift between the two: class means that differ there are not those that were made equal.",
    )
    return Audit(
        f"Language model of Python ({arch}): erase the lexical type",
        text=about,
        conclusions=(*losses.conclusions, *(said for part in probes for said in part.conclusions)),
        settings={"arch": arch, "seed": seed, **vars(sizes)},
        parts=tuple(replace(part, conclusions=()) for part in (losses, *probes)),
    )


def _losses(
    model: Any,
    train: TokenWorld,
    heldout: TokenWorld,
    fitted: Mapping[str, Scrubber],
    score_sites: int,
    seed: int,
    say: Say,
) -> Audit:
    """Bits per byte of the whole model under each eraser; then of one site at a time."""
    leace = fitted[METHODS["leace"]]
    ways = {RANDOM: leace.random_control(seed), **fitted}
    whole = {way: _bits(model, heldout, scrubber) for way, scrubber in ways.items()}
    audit = efface.audit.losses(
        _bits(model, heldout, None),
        whole=whole,
        control=RANDOM,
        lines={
            "unigram entropy": unigram_bits_per_byte(heldout),
            "unigram model of the training files": unigram_bits_per_byte(heldout, train=train),
        },
        **_setting(heldout, seed),
    )
    few = _some(heldout, range(min(score_sites, len(heldout))))
    say(f"tokens: erasing one norm at a time, scored on {len(few)} sequences")
    data = {"input_ids": train.input_ids}
    alone = scrub(model, data, train.lexical_type, sites="norms", order="parallel", batch_size=16)
    single = {METHODS["leace"]: alone, RANDOM: alone.random_control(seed)}
    sites = {
        way: {str(site): _bits(model, few, scrubber.only(site)) for site in scrubber.sites}
        for way, scrubber in single.items()
    }
    by_site = efface.audit.losses(_bits(model, few, None), sites, control=RANDOM, **_setting(few, seed))
    conclusions = tuple(dict.fromkeys((*audit.conclusions, *by_site.conclusions)))
    settings = {**audit.settings, "sequences scored by site": len(few)}
    return replace(audit, conclusions=conclusions, parts=audit.parts + by_site.parts, settings=settings)


def _setting(world: TokenWorld, seed: int) -> dict[str, Any]:
    return {
        "per": world.sequence_bytes,
        "groups": world.files,
        "unit": "bits per byte",
        "name": "the lexical type",
        "title": "What it costs",
        "seed": seed,
    }


def _bits(model: Any, world: TokenWorld, scrubber: Scrubber | None) -> Tensor:
    with nullcontext() if scrubber is None else scrubber.on(model):
        return world.sequence_bits(next_token_nats(model, world))


def _training_files(sizes: TokenSizes, seed: int) -> tuple[TokenWorld, TokenWorld]:
    """Sequences of the training split for the fit; and of other files of it, about one in five."""
    wanted, some = sizes.fit + sizes.other, sizes.files
    # Modules alone, as the held-out split has no tests: else what is read there may be a test's style, or its lack.
    world = make_tokens("train", length=sizes.length, sequences=wanted, kind="library", max_files=some, seed=seed)
    files = list(dict.fromkeys(world.files))
    aside = set(np.random.default_rng(seed).choice(files, max(1, len(files) // 5), replace=False).tolist())
    rows = [i for i, file in enumerate(world.files) if file in aside][: sizes.other]
    return _some(world, [i for i, file in enumerate(world.files) if file not in aside]), _some(world, rows)


def _some(world: TokenWorld, rows: Sequence[int]) -> TokenWorld:
    cut = {name: getattr(world, name)[list(rows)] for name in ("input_ids", "lexical_type", "n_bytes")}
    return replace(world, files=tuple(world.files[i] for i in rows), **cut)


def _probes(model: Any, world: TokenWorld, scrubber: Scrubber, rows: int, seed: int, where: str) -> Audit:
    data = {"input_ids": world.input_ids}
    options = {"sites": "norms", "max_rows": rows, "seed": seed, "batch_size": 16}
    plain = collect(model, data, world.lexical_type, **options)
    erased = collect(model, data, world.lexical_type, scrubber=scrubber, **options)
    labels, kept = _common(plain.labels, world.names)
    return efface.audit.sites(
        {site: x[kept] for site, x in plain.x.items()},
        {site: x[kept] for site, x in erased.x.items()},
        [labels[i] for i in kept.tolist()],
        groups=np.array(world.files)[plain.sequence[kept].numpy()],
        control=world.input_ids[plain.sequence, plain.position][kept],
        name=f"the lexical type ({where})",
        title=f"What can be read, norm by norm: {where}",
        seed=seed,
    )


def _common(labels: Tensor, names: tuple[str, ...], fewest: int = 20) -> tuple[list[str], Tensor]:
    """Names of all labels, and which rows have a label with enough rows for five folds."""
    counts = torch.bincount(labels, minlength=len(names))
    return [names[i] for i in labels.tolist()], (counts[labels] >= fewest).nonzero().flatten()
