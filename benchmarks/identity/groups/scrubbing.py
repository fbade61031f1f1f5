"""Scrubbing of language models: fits, hooks, folds, files; collecting of states."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor

import efface
from benchmarks.identity.groups.parts import eraser_parts, modules, scrubber_parts
from benchmarks.identity.harness import Group, flat, named, text
from benchmarks.identity.inputs import arrays, language


def _scrubbed(name: str, scrubber: Any, model: Any) -> dict[str, Tensor]:
    with scrubber.on(model):
        return {f"{name}/erasers": scrubber_parts(scrubber), f"{name}/outputs": language.hidden(model)}


def scrub_llama() -> dict[str, Tensor]:
    from efface import scrub

    out: dict[str, Tensor] = {}
    model = language.tiny_model("llama")
    data, labels = language.text_data(), language.token_labels()
    out["plain/outputs"] = language.hidden(model)
    routes: dict[str, dict[str, Any]] = {
        "recompute": {"activations": "recompute"},
        "memory": {"activations": "memory"},
        "disk": {"activations": "disk"},
        "parallel": {"order": "parallel"},
    }
    for name, options in routes.items():
        out |= _scrubbed(name, scrub(model, data, labels, sites="norms", **options), model)
    scrubber = scrub(model, data, labels, sites="norms")
    for site, eraser in scrubber.erasers.items():
        out |= eraser_parts(f"site {site}", eraser)
    out["rank"] = torch.tensor(list(scrubber.rank.values()))
    out["summary"] = text(scrubber.summary())
    out["facts/fingerprint"] = text(scrubber.fingerprint)
    control = scrubber.random_control(3)
    with control.on(model):
        out["random control/outputs"] = language.hidden(model)
        out["random control/outputs again"] = language.hidden(model)
    with scrubber.only("model.norm").on(model):
        out["only/outputs"] = language.hidden(model)
    with scrubber.on(model), torch.no_grad():
        out["generated"] = model.generate(
            language.tokens(3)[:4, :6],
            attention_mask=torch.ones(4, 6, dtype=torch.int64),
            max_new_tokens=5,
            do_sample=False,
        )
    fold = scrubber.folded(model)
    out["folded/layers"] = text([fold.layers, fold.notes])
    with fold.on(model):
        out["folded/weights"], out["folded/outputs"] = modules(model), language.hidden(model)
    out["unfolded/weights"] = modules(model)
    linear = scrub(model, data, labels, sites="norms", affine=False, shrinkage=False)
    out |= _scrubbed("linear", linear, model)
    with linear.folded(model).on(model):
        out["linear/folded weights"], out["linear/folded outputs"] = modules(model), language.hidden(model)
    with tempfile.TemporaryDirectory() as folder:
        linear.export(folder, model)
        out["linear/exported outputs"] = language.hidden(type(model).from_pretrained(folder).eval())
    more: dict[str, tuple[Any, dict[str, Any]]] = {
        "orth": (labels, {"sites": "norms", "method": "orth"}),
        "mean-difference": (labels, {"sites": "norms", "method": "mean-difference"}),
        "quantity": (language.tokens().double() + 0.5, {"sites": "norms"}),
        "a label a sequence": (torch.arange(24) % 2, {"sites": "norms"}),
        "ignored": (torch.where(language.tokens() % 5 == 0, -100, labels), {"sites": "norms", "batch_size": 5}),
        "residual": (labels, {"sites": "residual", "activations": "memory"}),
        "several": (labels, {"sites": ["mlp_out", "attn_out", "model.norm"]}),
        "inputs": (labels, {"sites": "**.self_attn:input[hidden_states]"}),
    }
    for name, (concept, options) in more.items():
        out |= _scrubbed(name, scrub(model, data, concept, **options), model)
    with tempfile.TemporaryDirectory() as folder:
        scrubber.save(folder)
        loaded = efface.load(folder)
        out |= _scrubbed("loaded", loaded, model)
    return out


def scrub_gpt2() -> dict[str, Tensor]:
    from efface import foldable, scrub

    out: dict[str, Tensor] = {}
    model = language.tiny_model("gpt2")
    data, labels = language.text_data(), language.token_labels()
    out["plain/outputs"] = language.hidden(model)
    for name, options in {
        "recompute": {},
        "memory": {"activations": "memory"},
        "parallel": {"order": "parallel"},
    }.items():
        out |= _scrubbed(name, scrub(model, data, labels, sites="norms", **options), model)
    scrubber = scrub(model, data, labels, sites="norms")
    can = foldable(model, scrubber.sites)
    out["foldable"] = text({str(site): isinstance(layers, tuple) for site, layers in can.items()})
    part = scrubber.only(*[site for site, layers in can.items() if isinstance(layers, tuple)])
    with part.folded(model).on(model):
        out["folded/weights"], out["folded/outputs"] = modules(model), language.hidden(model)
    outputs = scrub(model, data, labels, sites="mlp_out", order="parallel")
    out |= _scrubbed("mlp_out", outputs, model)
    with scrubber.random_control(0).on(model):
        out["random control/outputs"] = language.hidden(model)
    return out


def scrub_bert() -> dict[str, Tensor]:
    from efface import scrub

    out: dict[str, Tensor] = {}
    model = language.tiny_model("bert")
    data, labels = language.text_data(), language.token_labels()
    out["plain/outputs"] = language.hidden(model)
    for sites in ("norms", "residual", "attn_out"):
        for order in ("sequential", "parallel"):
            out |= _scrubbed(f"{sites}/{order}", scrub(model, data, labels, sites=sites, order=order), model)
    # What a linear layer gives is erased by folding into that layer itself.
    dense = scrub(model, data, labels, sites="mlp_out")
    with dense.folded(model).on(model):
        out["folded/weights"], out["folded/outputs"] = modules(model), language.hidden(model)
    return out


def concept_scrubber() -> dict[str, Tensor]:
    """The drop-in for concept-erasure: erasers for norms by mangled path, before or after each layer."""
    from efface import ConceptScrubber, LeaceFitter
    from efface.scrubbing.concept_scrubber import is_norm_layer, mangle_module_path

    out: dict[str, Tensor] = {}
    for name in ("llama", "gpt2", "bert"):
        model = language.tiny_model(name)
        base = model.base_model
        keys = [mangle_module_path(path) for path, module in base.named_modules() if is_norm_layer(module)]
        for pre_hook in (False, True):
            scrubber = ConceptScrubber(pre_hook)
            fitters = {key: LeaceFitter(language.WIDTH, language.CLASSES) for key in keys}
            scrubber.erasers.update(dict.fromkeys(keys, torch.nn.Identity()))

            def update(key: str, x: Tensor) -> None:
                fitters[key].update(x, language.token_labels(), mask=language.padding().bool())  # noqa: B023

            with scrubber.apply_hook(model, update), torch.no_grad():
                model(**language.text_data())
            scrubber.erasers.update({key: fitter.eraser for key, fitter in fitters.items()})
            kind = "before" if pre_hook else "after"
            out[f"{name}/{kind}/erasers"] = flat(
                {f"{k} {n}": v for k, e in scrubber.erasers.items() for n, v in e.tensors().items()}
            )
            with scrubber.scrub(model):
                out[f"{name}/{kind}/outputs"] = language.hidden(model)
    return out


def collecting() -> dict[str, Tensor]:
    """Hidden states at sites, labels from spans, addresses of sites, and the random control by itself."""
    from efface import (
        RandomSubspace,
        collect,
        find_sites,
        labels_from_characters,
        labels_from_spans,
        scrub,
    )

    out: dict[str, Tensor] = {}
    model = language.tiny_model("llama")
    data, labels = language.text_data(), language.token_labels()
    scrubber = scrub(model, data, labels, sites="norms")
    for name, options in {"plain": {}, "scrubbed": {"scrubber": scrubber}, "few": {"max_rows": 50, "seed": 2}}.items():
        found = collect(model, data, labels, sites=["norms", "mlp_out"], **options)
        for site, x in found.x.items():
            out[f"{name}/{site}"] = x
        out |= {f"{name}/{key}": getattr(found, key) for key in ("labels", "sequence", "position")}
    for name in ("llama", "gpt2", "bert"):
        for role in ("norms", "residual", "mlp_out", "attn_out"):
            out[f"sites/{name}/{role}"] = text([str(site) for site in find_sites(language.tiny_model(name), role)])
    out["sites/sliced"] = text([str(s) for s in find_sites(model, ["residual[1:]", "re:.*\\.q_proj", "lm_head:input"])])
    out["spans"] = labels_from_spans([[(1, 3, 1), (4, 6, 2)], [(0, 2, 0)]], 7)
    out["characters"] = labels_from_characters([[(0, 3, 1), (8, 9, 2)]], [[[0, 0], [0, 3], [4, 7], [7, 9]]], outside=0)
    erase = RandomSubspace(3, center=torch.ones(8), seed=5).begin()
    x, _ = arrays.vectors(torch.float32)
    out["random subspace"], out["random subspace, again"] = erase(x), erase(x)
    return out


GROUPS: dict[str, Group] = named(scrub_llama, scrub_gpt2, scrub_bert, concept_scrubber, collecting)
