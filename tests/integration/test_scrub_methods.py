"""Methods of rows as methods of models, by the registry; and models inside wrappers."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import efface
from efface import InputError, Scrubber, methods, scrub
from efface.core.concept import Concept
from efface.core.method import erase, get_method
from efface.scrubbing import ScrubConfig
from tests.models import class_gaps, concept, data, gap, hidden_states, labelled_rows, state, tiny
from tests.scrubs import model

ROWS = {m.name: m for m in methods("rows")}
MODELS = {m.name: m for m in methods("model") if m.erasure is Scrubber}


def test_every_method_of_rows_that_needs_no_labels_is_one_of_models():
    assert set(MODELS) == {name for name, method in ROWS.items() if not method.labels_at_apply}
    for name, method in MODELS.items():
        own, rows = ({o.name for o in m.config.options()} for m in (method, ROWS[name]))
        assert issubclass(method.config, ScrubConfig) and own >= rows | {"sites", "order", "activations", "batch_size"}
        assert all(option.help for option in method.config.options())
        assert set(method.data) == {"data", "checkpoint", "scratch", "memory", "beyond"}


@pytest.mark.parametrize("name", MODELS)
def test_erasing_by_the_registry_is_scrub(name):
    before = state(model("llama"))
    given: dict[str, Any] = {"sites": "norms", "affine": False, "activations": "memory"}
    known = erase(model("llama"), concept("llama"), name, data=data("llama"), **given)
    again = scrub(model("llama"), data("llama"), concept("llama"), method=name, **given)
    assert known == again
    assert known.method == name and known.config.sites == ("norms",) and not known.config.affine
    assert state(model("llama")) == before
    for which, call in ((known, "efface.erase("), (again, "efface.scrub(")):
        assert which.provenance["call"].startswith(call)
        assert which.provenance["subject"][0]["name"] == "LlamaForCausalLM"


def test_a_concept_with_labels_gives_its_name():
    named = Concept("remainder", labels=concept("llama"))
    known = erase(model("llama"), named, data=data("llama"), sites="norms")
    assert known.names == ("remainder",) and known.concepts == (named,)
    of_the_fit = {name: getattr(known, name) for name in ("fingerprint", "config", "method", "report", "left")}
    again = efface.Scrubber(known.erasers, **of_the_fit)
    assert again == scrub(model("llama"), data("llama"), concept("llama"), sites="norms") != known


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "pass what goes through the model"),
        ({"data": {}}, "no columns|sites is empty"),
        ({"sites": []}, "sites is empty: name at least one"),
        ({"rank": 3}, "method='leace' has no option 'rank'.*it has sites, order, .*affine"),
        ({"shrinkge": True}, "did you mean 'shrinkage'"),
        ({"order": "random"}, "choose one of 'sequential', 'parallel'"),
        ({"method": "oracle"}, "'oracle' erases from rows, not from model"),
        ({"dtype": "float3"}, "dtype='float3': write one of torch's"),
        ({"concept": Concept("remainder")}, "'remainder' has no labels"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_a_fit_by_the_registry_refuses(given, text):
    before = state(model("llama"))
    more = {"data": data("llama")} if given else {}
    call: dict[str, Any] = {"concept": concept("llama"), "method": "leace", **more, "sites": "norms"} | given
    with pytest.raises(InputError, match=text):
        erase(model("llama"), call.pop("concept"), **call)
    assert state(model("llama")) == before


def test_the_method_of_a_saved_scrubber_is_that_of_models():
    assert get_method("leace", "model").erasure is Scrubber and get_method("leace").subjects == ("rows",)


# ------------------------------------------------------------------------------------------------------ wrappers


def worst(own: nn.Module, paths: list[str]) -> float:
    mask = data("llama")["attention_mask"]
    rows = hidden_states(own, data("llama"), paths).values()
    return max(gap(*labelled_rows(x, concept("llama"), mask)) for x in rows)


def adapted() -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(tiny("llama"), peft.LoraConfig(r=4, target_modules=["q_proj"])).eval()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(lambda: nn.DataParallel(tiny("llama")), "module."), (adapted, "base_model.model.")],
    ids=["DataParallel", "PEFT"],
)
def test_wrappers_are_looked_through(wrap, prefix):
    known = scrub(model("llama"), data("llama"), concept("llama"), sites="norms")
    wrapped = wrap()
    paths = [f"{prefix}{site.path}" for site in known.sites]
    own = scrub(wrapped, data("llama"), concept("llama"), sites="norms")
    assert own.sites == known.sites and worst(wrapped, paths) > 0.1
    with own.on(wrapped):
        assert worst(wrapped, paths) <= 1e-6
    with known.on(wrapped, check=False):  # the weights of the adapter count
        assert worst(wrapped, paths) <= 1e-6
    assert worst(wrapped, paths) > 0.1


def test_a_model_and_a_wrapper_around_it_are_one():
    own = tiny("llama")
    known = scrub(own, data("llama"), concept("llama"), sites="norms")
    with known.on(nn.DataParallel(own)), pytest.raises(InputError, match="already"):
        known.on(own)
    with known.on(own):
        assert max(class_gaps(own, "llama", [site.path for site in known.sites]).values()) <= 1e-6


def test_weights_that_are_not_in_memory_cannot_be_folded_into():
    known = scrub(model("llama"), data("llama"), concept("llama"), sites="norms")
    away = tiny("llama")
    away.lm_head.to("meta")
    bare = Scrubber(known.only("model.norm").erasers)
    with pytest.raises(InputError, match="weights of lm_head are not in memory"):
        bare.folded(away)
