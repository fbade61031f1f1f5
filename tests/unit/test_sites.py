"""Addresses of sites: paths, globs, regular expressions and roles, on every architecture."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from efface import InputError, Site, find_sites
from efface.scrubbing.forward import edited
from efface.scrubbing.sites import _expression
from tests.models import FAMILIES, POST_NORM, SEQUENCES, WIDTH, data, tiny

every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def model(name: str) -> Any:
    return tiny(name)


def found(name: str, sites: Any, **options: Any) -> list[str]:
    return [str(site) for site in find_sites(model(name), sites, **options)]


# ------------------------------------------------------------------------------------------------ addresses

steps = st.text("ab_0", min_size=1, max_size=3)
paths = st.lists(steps, min_size=1, max_size=4).map(".".join)


@given(paths, st.sampled_from(["input", "output"]), st.none() | st.integers(0, 9) | st.sampled_from(["hidden", "x_1"]))
def test_an_address_is_read_as_it_is_written(path, where, index):
    site = Site(path, where, index)
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize("text", ["h.0:outputs", "h.0:output[", "h.0:input:output", "h.0:output[0][1]"])
def test_what_is_no_address(text):
    with pytest.raises(InputError, match="write 'path', 'path:input'"):
        Site.parse(text)


def matches(path: list[str], glob: list[str]) -> bool:
    """The meaning of a glob, step by step: `**` takes any number of steps, at the end at least one."""
    if not glob:
        return not path
    if glob[0] == "**":
        if len(glob) == 1:
            return bool(path)
        return any(matches(path[i:], glob[1:]) for i in range(len(path) + 1))
    pattern = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in glob[0])
    return bool(path) and re.fullmatch(pattern, path[0]) is not None and matches(path[1:], glob[1:])


@given(paths, st.lists(st.just("**") | st.text("ab0*?", min_size=1, max_size=3), min_size=1, max_size=4))
def test_globs_are_matched_step_by_step(path, glob):
    glob = ["*" if set(step) == {"*"} and step != "**" else step for step in glob]
    assert bool(re.fullmatch(_expression(".".join(glob)), path)) == matches(path.split("."), glob)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("model.layers.0.mlp", ["model.layers.0.mlp"]),
        ("layers.0.mlp", ["model.layers.0.mlp"]),  # below the base model
        ("model.layers.*.mlp:input", ["model.layers.0.mlp:input", "model.layers.1.mlp:input"]),
        ("**.q_proj", ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]),
        ("**.1.*norm", ["model.layers.1.input_layernorm", "model.layers.1.post_attention_layernorm"]),
        ("layers.[1]", ["model.layers.1"]),
        ("model.layers.0?mlp", None),  # `?` is no dot
        (r"re:model\.layers\.\d\.mlp", ["model.layers.0.mlp", "model.layers.1.mlp"]),
        (re.compile(r"layers\.1\.(mlp|self_attn)"), ["model.layers.1.self_attn", "model.layers.1.mlp"]),
        (re.compile("mlp"), None),  # the whole path
        (Site("model.norm", "input"), ["model.norm:input"]),
        (Site("norm"), ["model.norm"]),
        (Site("model.layers.*"), None),  # a Site is no pattern
        ("model.layers.0.self_attn:output[1]", ["model.layers.0.self_attn:output[1]"]),
        ("model:output[last_hidden_state]", ["model:output[last_hidden_state]"]),
        (["lm_head", "model.norm", "norm", Site("model.norm")], ["model.norm", "lm_head"]),
        ("residual[1:]", ["model.layers.1"]),
        ("norms[-1:]", ["model.norm"]),
        ("residual[:-1]", ["model.layers.0"]),
        (["mlp_out", "attn_out[:1]"], ["model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.1.mlp"]),
    ],
    ids=str,
)
def test_what_an_address_stands_for(address, expected):
    if expected is None:
        with pytest.raises(InputError, match="no module of LlamaForCausalLM matches"):
            found("llama", address)
    else:
        assert found("llama", address) == expected


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("model.layer.0.input_layernorm", "did you mean 'model.layers.0.input_layernorm'"),
        ("transformer.h.0.self_attn", "did you mean 'model.layers.0.self_attn' or 'model.layers.1.self_attn'"),
        (re.compile(r"model\.layers\.\d\.mpl"), r"did you mean 'model.layers.\d.mlp'"),
        ("norm[0]", "did you mean"),
        ("qqq", "paths look like"),
        ("re:(", "no regular expression"),
        ("residual[7:9]", "none of the 2 sites of 'residual'"),
        ([], "'norms', 'residual', 'mlp_out', 'attn_out'"),
        ([3], "not int: 3"),
    ],
    ids=str,
)
def test_what_matches_nothing_is_refused_with_what_comes_near(address, text):
    with pytest.raises(InputError) as error:
        found("llama", address)
    assert re.search(text if "\\" in text else re.escape(text), str(error.value))


def test_the_users_table_goes_before_the_known_ones():
    table = {"norms": "**.input_layernorm", "heads": ("lm_head", "model.norm:input")}
    assert found("llama", "norms", table=table) == ["model.layers.0.input_layernorm", "model.layers.1.input_layernorm"]
    assert found("llama", "heads", table=table) == ["model.norm:input", "lm_head"]
    assert found("llama", "residual", table=table) == ["model.layers.0", "model.layers.1"]
    with pytest.raises(InputError, match="its patterns are .*blocks.*table="):
        found("llama", "residual", table={"residual": "blocks.*"})


# -------------------------------------------------------------------------------- roles, on every architecture


def states(name: str, sites: list[Site]) -> dict[Site, Tensor]:
    """What is at these sites in one forward pass, `(b, t, d)`."""
    found: dict[Site, Tensor] = {}
    with torch.no_grad(), edited(model(name), {site: lambda x, s=site: found.update({s: x}) for site in sites}):
        model(name)(**data(name))
    return {site: x.reshape(SEQUENCES, -1, WIDTH) for site, x in found.items()}  # OPT's fc2 sees tokens in one row


@every_family
def test_blocks_add_what_attention_and_feed_forward_give(name):
    """The residual stream leaves a block as it came, plus what is at the sites of these roles.

    The BERTs' norms see the sum, and what they give goes on.
    """
    blocks = [site.path for site in find_sites(model(name), "residual")]
    parts = find_sites(model(name), ["attn_out", "mlp_out"])
    if name in POST_NORM:
        norms = [s for s in find_sites(model(name), "norms") if "embeddings" not in s.path]
        x = states(name, [*(Site(s.path, "input") for s in norms), *norms, *parts, Site(blocks[0], "input")])
        stream = x[Site(blocks[0], "input")]
        for i, norm in enumerate(norms):
            added = sorted(parts, key=lambda s: (s.path.split(".")[2], "att" not in s.path))[i]
            torch.testing.assert_close(x[Site(norm.path, "input")], stream + x[added])
            stream = x[norm]
        return
    x = states(name, [*(Site(path, "input") for path in blocks), *(Site(path) for path in blocks), *parts])
    assert len(parts) == len(blocks) * 2 + (2 if name == "t5" else 0)
    for path in blocks:
        own = [x[site] for site in parts if site.path.startswith(f"{path}.")]
        torch.testing.assert_close(x[Site(path)], x[Site(path, "input")] + sum(own), rtol=1e-4, atol=1e-4)


@every_family
def test_norms_are_all_layers_with_one_weight_a_feature_of_the_residual_stream(name):
    weights = {path: module._parameters.get("weight") for path, module in model(name).named_modules()}
    assert set(found(name, "norms")) == {path for path, w in weights.items() if w is not None and w.shape == (WIDTH,)}
