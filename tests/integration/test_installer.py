"""Putting on and taking off, proven once for every kind of edit: nesting, order, failures, threads, wrappers."""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import itertools
import pickle
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import efface
from efface import EffaceWarning, InputError
from efface._errors import NotReachedWarning
from efface.core.edits import Edit, OnPrediction, OnRows, OnStates, OnText, OnWeights
from efface.core.erasure import Erasure
from efface.core.hooks import edits_on
from efface.core.installer import handles_on
from efface.core.site import Site
from efface.core.weights import Add, LowRank, Multiply, Put, WeightDelta
from efface.pipelines import PipelineView
from tests.models import tiny
from tests.pipelines import build, df


@dataclass(frozen=True, eq=False, repr=False)
class Shift(Erasure):
    """Adds a number: to rows, states, text, predictions or weights."""

    by: float
    kind: str

    @property
    def edits(self) -> tuple[Edit, ...]:
        return EDITS[self.kind](self.by)

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.by


@dataclass(frozen=True, eq=False, repr=False)
class Holds(Erasure):
    """Edits as they are given."""

    held: tuple[Edit, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        return self.held


@dataclass(frozen=True, eq=False, repr=False)
class Broken(Erasure):
    """A good edit, then one that cannot be put on."""

    kind: str

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (*EDITS[self.kind](1.0), *BROKEN[self.kind])


def _text(by: float) -> Edit:
    def edit(embedding: Any, run: Any) -> Any:
        run.count("prompts", len(embedding))
        return embedding.replace(sequence=embedding.sequence + by)

    return OnText(edit)


def _prediction(by: float) -> Edit:
    return OnPrediction(after=lambda step, run: step.cond + by)


def _swap(by: float) -> Edit:
    return OnPrediction(before=lambda index, embedding, rows, run: rows * (1 + by))


def changing(changes: Any) -> WeightDelta:
    return WeightDelta(changes)


def _delta(by: float) -> WeightDelta:
    return changing({"0.weight": Add(torch.full((4, 4), by)), "1.bias": Add(torch.ones(4))})


EDITS: dict[str, Callable[[float], tuple[Edit, ...]]] = {
    "rows": lambda by: (OnRows(lambda x: x + by),),
    "states": lambda by: (OnStates({Site("0"): lambda x: x + by, Site("1", "input"): lambda x: x * (1 + by)}),),
    "weights": lambda by: (
        OnWeights(changing({"0.weight": Add(torch.full((4, 4), by)), "1.bias": Add(torch.ones(4))})),
    ),
    "text": lambda by: (_text(by),),
    "prediction": lambda by: (_prediction(by),),
    "swap": lambda by: (_swap(by),),
    "unet": lambda by: (OnWeights(changing({"conv_in.bias": Add(torch.full((16,), by))}), part="unet"),),
}
NOWHERE = OnStates({Site("nowhere"): lambda x: x})
BROKEN: dict[str, tuple[Edit, ...]] = {
    "rows": (NOWHERE,),
    "states": (NOWHERE,),
    "weights": (OnWeights(changing({"9.weight": Add(torch.ones(1))})),),
    "text": (OnWeights(changing({"none.weight": Add(torch.ones(1))}), part="unet"),),
    "prediction": (OnWeights(changing({"conv_in.bias": Add(torch.ones(3))}), part="unet"),),
    "swap": (OnWeights(changing({}), part="nothing"),),
    "unet": (OnWeights(changing({"conv_in.bias": Add(torch.full((16,), torch.nan))}), part="unet"),),
}
KINDS = list(EDITS)
FILES = {
    str(Path(efface.__file__).parent / "core" / f"{name}.py") for name in ("installer", "hooks", "edits", "writing")
}
"""Where a signal is sent; not where a lock is all there is: Python handles none between a block's end and its exit."""
ORDERED = ("weights", "unet")
"""Kinds whose edits come off in the reverse order alone."""
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def layers() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def subject_of(kind: str) -> Any:
    return layers() if kind in ("rows", "states", "weights") else build("sd1")


def said(subject: Any) -> Tensor:
    """What a subject gives."""
    if isinstance(subject, nn.Module):
        with torch.no_grad():
            return subject(X)
    generator = torch.Generator().manual_seed(0)
    call = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent", "generator": generator}
    return subject("a red circle", guidance_scale=3.0, **call).images


def modules_of(subject: Any) -> list[nn.Module]:
    parts = [subject] if isinstance(subject, nn.Module) else subject.components.values()
    return [part for part in parts if isinstance(part, nn.Module)]


def state(subject: Any) -> dict[str, Any]:
    """Everything that an edit could leave behind."""
    found: dict[str, Any] = {"own": sorted(k for k in vars(subject) if not k.startswith("_"))}
    for i, part in enumerate(modules_of(subject)):
        found |= {f"{i}.{k}": (id(v), v.clone()) for k, v in part.state_dict(keep_vars=True).items()}
        found[f"{i} hooks"] = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in part.modules())
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return x[0] == y[0] and torch.equal(x[1], y[1]) if isinstance(x, tuple) else x == y

    return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def subject(kind: str) -> Any:
    return subject_of(kind)


def test_on_and_off_bit_for_bit(kind: str, subject: Any) -> None:
    before, plain = state(subject), said(subject)
    with Shift(0.5, kind).on(subject) as run:
        assert not torch.equal(said(subject), plain) and run.is_on and handles_on(subject) == (run,)
    assert not run.is_on and not handles_on(subject)
    assert same(state(subject), before) and torch.equal(said(subject), plain)
    run.undo()  # a second time does nothing
    assert same(state(subject), before)


def test_until_it_is_undone(kind: str, subject: Any) -> None:
    plain = said(subject)
    run = Shift(0.5, kind).on(subject)
    assert not torch.equal(said(subject), plain)
    with run:
        run.undo()
        assert torch.equal(said(subject), plain)


def test_twice_is_refused(kind: str, subject: Any) -> None:
    plain = said(subject)
    with Shift(0.5, kind).on(subject):
        once = said(subject)
        for again in (Shift(0.5, kind), pickle.loads(pickle.dumps(Shift(0.5, kind)))):
            with pytest.raises(InputError, match=r"already: undo\(\) its handle"):
                again.on(subject)
        assert torch.equal(said(subject), once)
    assert torch.equal(said(subject), plain)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_several_come_off_in_any_order_that_commutes(kind: str, order: tuple[int, ...]) -> None:
    subject = subject_of(kind)
    before, plain = state(subject), said(subject)
    values = (0.5, 0.25, -0.125)
    runs = [Shift(by, kind).on(subject) for by in values]
    left = list(range(3))
    for i in order:
        if kind in ORDERED and i != left[-1]:
            with pytest.raises(InputError, match="undo that one first"):
                runs[i].undo()
            assert runs[i].is_on
            continue
        runs[i].undo()
        left.remove(i)
        if left:
            now = said(subject)
            fresh = subject_of(kind)
            for j in left:
                Shift(values[j], kind).on(fresh)
            assert torch.equal(said(fresh), now)
    for run in reversed(runs):
        run.undo()
    assert same(state(subject), before) and torch.equal(said(subject), plain)


@pytest.mark.parametrize(
    "kinds", [("states", "weights"), ("text", "unet"), ("prediction", "text"), ("swap", "unet")], ids=str
)
def test_edits_of_other_kinds_are_independent(kinds: tuple[str, str]) -> None:
    subject = subject_of(kinds[0])
    before, plain = state(subject), said(subject)
    for first, second in (kinds, kinds[::-1]):
        one, two = Shift(0.5, first).on(subject), Shift(0.25, second).on(subject)
        one.undo()
        with_two = said(subject)
        two.undo()
        with Shift(0.25, second).on(subject):
            assert torch.equal(said(subject), with_two)
    assert same(state(subject), before) and torch.equal(said(subject), plain)


def test_joined_is_one_after_the_other(kind: str, subject: Any) -> None:
    both = Shift(0.5, kind) & Shift(0.25, kind)
    plain = said(subject)
    with both.on(subject):
        joined = said(subject)
    with Shift(0.5, kind).on(subject), Shift(0.25, kind).on(subject):
        assert torch.equal(said(subject), joined)
    assert torch.equal(said(subject), plain)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_takes_it_off(kind: str, error: type[BaseException]) -> None:
    subject = subject_of(kind)
    before = state(subject)
    with pytest.raises(error), Shift(0.5, kind).on(subject):
        raise error
    assert same(state(subject), before) and not handles_on(subject)


def test_an_install_that_fails_leaves_nothing(kind: str, subject: Any) -> None:
    before, plain = state(subject), said(subject)
    with pytest.raises(InputError):
        Broken(kind).on(subject)
    assert same(state(subject), before) and not handles_on(subject) and torch.equal(said(subject), plain)
    with Shift(0.5, kind).on(subject):
        on = said(subject)
        with pytest.raises(InputError):
            Broken(kind).on(subject)
        assert torch.equal(said(subject), on)
    assert same(state(subject), before)


def test_an_interrupt_while_it_is_put_on_leaves_nothing(
    kind: str, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, plain = state(subject), said(subject)

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    later = type("Later", (Edit,), {"needs": ("model", "pipeline"), "bind": stop})()
    monkeypatch.setitem(EDITS, "later", lambda by: (*EDITS[kind](by), later))
    with pytest.raises(KeyboardInterrupt):
        Shift(1.0, "later").on(subject)
    assert same(state(subject), before) and torch.equal(said(subject), plain)


def test_a_copy_of_a_subject_keeps_what_is_on_it(kind: str) -> None:
    subject = subject_of(kind)
    plain = said(subject)
    with Shift(0.5, kind).on(subject):
        on, copied = said(subject), copy.deepcopy(subject)
    assert torch.equal(said(subject), plain)
    assert torch.equal(said(copied), on) and not handles_on(copied)


@pytest.mark.parametrize("kind", ["rows", "states", "weights", "swap"])
def test_ctrl_c_at_any_line_leaves_nothing(kind: str) -> None:
    """A signal at every line of on() and undo(): it comes through, and the subject is as it was, or can be undone."""
    subject, erasure = subject_of(kind), Shift(0.5, kind)
    before = state(subject)
    erasure.on(subject).undo()
    step = 1 if isinstance(subject, nn.Module) else 41
    for line in itertools.count(1, step):
        if not _interrupted(lambda: erasure.on(subject).undo(), line):
            break
        for run in handles_on(subject):  # it came when on() was done
            run.undo()
        assert not handles_on(subject) and same(state(subject), before), line
    assert line > 100 and same(state(subject), before)


def _interrupted(call: Callable[[], Any], line: int) -> bool:
    """Send the signal of Ctrl-C at the n-th line; whether there is such a line."""
    left = line

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        left -= event == "line" and frame.f_code.co_filename in FILES
        if left == 0:
            left = -1
            signal.raise_signal(signal.SIGINT)
        return trace

    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(usual)
    assert left > 0, "the interrupt was swallowed"
    return False


def test_the_wrong_subject_is_refused_untouched(kind: str) -> None:
    wrong = build("sd1") if kind in ("rows", "states", "weights") else layers()
    before = state(wrong)
    with pytest.raises(InputError, match="is for a"):
        Shift(0.5, kind).on(wrong)
    with pytest.raises(InputError, match="an array"):
        Shift(0.5, kind).on(torch.zeros(2, 2))
    with pytest.raises(InputError, match="nothing that efface erases from"):
        Shift(0.5, kind).on(object())
    assert same(state(wrong), before)


def test_an_erasure_that_is_on_is_still_a_value(kind: str, subject: Any) -> None:
    erasure = Shift(0.5, kind)
    with erasure.on(subject) as run:
        assert copy.deepcopy(erasure) == pickle.loads(pickle.dumps(erasure)) == erasure
        with pytest.raises(TypeError, match="save the erasure instead"):
            pickle.dumps(run)


def test_one_erasure_on_two_subjects(kind: str) -> None:
    one, two = subject_of(kind), subject_of(kind)
    erasure, plain = Shift(0.5, kind), said(one)
    first, second = erasure.on(one), erasure.on(two)
    first.undo()
    assert torch.equal(said(one), plain) and not torch.equal(said(two), plain)
    second.undo()
    assert torch.equal(said(two), plain)


def test_threads_that_put_on_and_take_off(kind: str, subject: Any) -> None:
    before, plain = state(subject), said(subject)
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for j in range(20):
                with Shift(0.001 * (1 + 20 * i + j), kind).on(subject):
                    pass
        except InputError as error:  # edits of the same weights may come off in one order alone
            if kind not in ORDERED:
                failures.append(error)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1 if kind in ORDERED else 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and not handles_on(subject)
    assert same(state(subject), before) and torch.equal(said(subject), plain)


def test_what_fired_is_in_the_log(kind: str, subject: Any) -> None:
    with Shift(0.5, kind).on(subject) as run:
        said(subject)
    counted = {"states": {"0": 1, "1:input": 1}, "rows": {"Sequential": 1}, "text": {"prompts": 1}}
    assert run.log.counts == counted.get(kind, {})


def test_a_subject_that_is_dropped_with_an_erasure_on_is_freed(kind: str) -> None:
    subject = subject_of(kind)
    Shift(0.5, kind).on(subject)
    gone = weakref.ref(subject)
    del subject
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("kind", ["states", "weights"])
def test_a_copy_keeps_what_is_on_and_is_nobodys_business(kind: str) -> None:
    subject = subject_of(kind)
    with Shift(0.5, kind).on(subject) as run:
        on = said(subject)
        twin = copy.deepcopy(subject)
        assert torch.equal(said(twin), on) and not handles_on(twin) and run.is_on
    assert torch.equal(said(twin), on) and not torch.equal(said(subject), on)


# -------------------------------------------------------------------------------------------------- states


def test_edits_come_before_everybody_elses_hooks_and_in_their_own_order() -> None:
    model, seen = layers(), list[Tensor]()
    model[0].register_forward_hook(lambda _m, _a, out: seen.append(out.clone()))
    double, plus = OnStates({Site("0"): lambda x: 2 * x}), OnStates({Site("0"): lambda x: x + 1})
    plain = model[0](X)
    seen.clear()
    twice, more = Holds((double,)), Holds((plus,))

    with twice.on(model), more.on(model):
        model(X)
        assert torch.equal(seen[-1], 2 * plain + 1) and edits_on(model) == 2
    with more.on(model), twice.on(model):
        model(X)
        assert torch.equal(seen[-1], 2 * (plain + 1))


def test_transformers_shows_erased_states_even_if_it_was_asked_before() -> None:
    model, ids = tiny("llama"), torch.arange(8)[None] + 3
    with torch.no_grad():
        model(ids, output_hidden_states=True)  # its own hooks are on from here on
        zero = OnStates({Site("model.layers.0"): torch.zeros_like})

        with Holds((zero,)).on(model):
            assert not model(ids, output_hidden_states=True).hidden_states[1].any()


def test_a_site_that_is_never_passed_is_told() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Skips()
    both = Holds((OnStates({Site("used"): torch.zeros_like, Site("unused"): torch.zeros_like}),))

    run = both.on(model)
    with pytest.warns(NotReachedWarning, match="Skips was called and never came by unused: nothing was erased there"):
        model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)  # it has been said
    with pytest.warns(NotReachedWarning, match="ran 2 times and never came by unused"):
        run.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with both.on(model):
            pass


class _Two(nn.Module):
    """Two layers; how the first one is run is what a test is about."""

    def __init__(self, first: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.run, self.kept = first, ()

    def forward(self, x: Tensor) -> Any:
        found = self.run(self, x)
        return (self.second(found[0]), found[1]) if isinstance(found, tuple) else self.second(found)


def _kept(model: Any, x: Tensor) -> Tensor:
    """The first layer keeps what it gives in an attribute, from within."""
    forward = nn.Linear.forward
    model.first.forward = lambda x: model.__setattr__("kept", [forward(model.first, x)]) or model.kept[0]
    return model.first(x)


def _captured(model: Any, x: Tensor) -> tuple[Tensor, Any]:
    """The model gives what the first layer gave from within, as transformers did by patches of `forward`."""
    found = _kept(model, x)
    seen, model.kept = (x, *model.kept), ()
    return found, {"hidden_states": seen}


class _Reads(nn.Module):
    """Reads the hidden states that a part has captured, and gives none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = _Two(_captured)

    def forward(self, x: Tensor) -> Tensor:
        return self.tower(x)[1]["hidden_states"][-1] + 1


@pytest.mark.parametrize(
    ("model", "path", "told"),
    [
        (_Two(lambda model, x: model.first.forward(x)), "first", "_Two was called and never came by first"),
        (_Two(_captured), "first", "_Two gives the hidden states of first as they were before"),
        (_Two(_kept), "first", "_Two keeps hidden states in its attribute 'kept' as they were before"),
        (_Reads(), "tower.first", "_Two gives the hidden states of tower.first as they were before"),
    ],
    ids=["forward", "captured", "kept", "inside"],
)
def test_who_passes_an_edit_by_is_told_at_the_first_call(model: Any, path: str, told: str) -> None:
    with torch.no_grad(), Holds((OnStates({Site(path): torch.zeros_like}),)).on(model):
        with pytest.warns(NotReachedWarning, match=told) as said:
            model(X)
        assert len(said) == 1


def test_a_cache_that_was_filled_before_is_told() -> None:
    model, ids = tiny("llama"), torch.arange(8)[None] + 3
    erasure = Holds((OnStates({Site("model.layers.0"): torch.zeros_like}),))
    with torch.no_grad():
        before = model(ids, use_cache=True).past_key_values
        with erasure.on(model):
            within = copy.deepcopy(model(ids, use_cache=True).past_key_values)
            model(ids[:, :1], past_key_values=within)
            model.generate(ids, max_new_tokens=3, do_sample=False)
            with pytest.warns(NotReachedWarning, match=r"past_key_values was filled without Holds\(\)"):
                model(ids[:, :1], past_key_values=before)


@pytest.mark.parametrize("wrap", ["torch.compile", "compile", "data parallel", "replica", "checkpoint"])
def test_parts_that_are_wrapped_have_the_sites_of_the_bare_model(wrap: str) -> None:
    model = nn.Sequential(layers(), nn.Linear(4, 4))
    plain, site = model(X), Site("0.0")
    with Holds((OnStates({site: torch.zeros_like}),)).on(model):
        expected = model(X)
    if wrap == "torch.compile":
        model[0] = torch.compile(model[0], backend="eager")  # type: ignore[assignment]
    elif wrap == "compile":
        model[0].compile(backend="eager")
    elif wrap == "data parallel":
        model[0] = nn.DataParallel(model[0])
    elif wrap == "checkpoint":
        wrapper = importlib.import_module("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
        model[0] = wrapper.checkpoint_wrapper(model[0])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.compile's own deprecations
        torch.testing.assert_close(model(X), plain)  # compiled before the erasure comes
        with Holds((OnStates({site: torch.zeros_like}),)).on(model):
            called = _replicated(model) if wrap == "replica" else model
            torch.testing.assert_close(called(X), expected)
    assert not torch.allclose(expected, plain)


def _replicated(module: Any) -> Any:
    """What DataParallel runs on another device."""
    replica = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter)
    for name, part in module._modules.items():
        replica._modules[name] = _replicated(part)
    return replica


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_part_that_was_scripted_or_traced_is_refused(how: str) -> None:
    model = nn.Sequential(layers(), nn.Linear(4, 4))
    part = torch.jit.script(model[0]) if how == "script" else torch.jit.trace(model[0], X)
    model[0] = part  # type: ignore[assignment]
    for path in ("0", "0.0"):
        with pytest.raises(InputError, match="scripted or traced"):
            Holds((OnStates({Site("1"): torch.zeros_like, Site(path): torch.zeros_like}),)).on(model)
    assert not edits_on(model[1])


def test_weights_that_are_taken_of_a_part_while_an_erasure_is_on_are_told(tmp_path: Any) -> None:
    model, file = nn.Sequential(layers(), nn.Linear(4, 4)), tmp_path / "model.pt"
    with Holds((OnStates({Site("0.0"): torch.zeros_like, Site("0.1"): torch.zeros_like}),)).on(model):
        for part in (model, model[0]):
            with pytest.warns(EffaceWarning, match="weights are taken of a Linear that an erasure is on") as told:
                torch.save(part.state_dict(), file)
            assert len(told) == 1
            with pytest.raises(InputError, match="cannot be pickled with it"):
                torch.save(part, file)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model[1].state_dict()  # nothing is on it
    torch.save(model, file)


def test_who_saves_what_an_erasure_is_on_is_told(tmp_path: Any) -> None:
    pipe, model = build("sd1"), tiny("llama")
    for kind in ("text", "prediction", "swap"):
        told = pytest.warns(EffaceWarning, match=r"Pipeline without Shift\(\), Shift\(\): save the erasure, too")
        with Shift(0.5, kind).on(pipe), Shift(1.0, kind).on(pipe), told:
            pipe.save_pretrained(tmp_path / kind)
    with Shift(0.5, "rows").on(model):
        copied = copy.deepcopy(model)
        with torch.no_grad():
            copied.lm_head.weight.zero_()
        with pytest.warns(EffaceWarning, match=r"the LlamaForCausalLM without Shift\(\)"):
            model.save_pretrained(tmp_path / "model")
        copied.save_pretrained(tmp_path / "copy")  # its own weights
    assert not bool(type(model).from_pretrained(tmp_path / "copy").lm_head.weight.any())
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffaceWarning)
        pipe.save_pretrained(tmp_path / "off")
        with Shift(0.5, "unet").on(pipe):
            pipe.save_pretrained(tmp_path / "unet")  # weights are saved with what is in them


@pytest.mark.parametrize("kind", ["text", "prediction", "swap"])
def test_another_pipeline_of_the_same_parts_is_told_that_nothing_is_on_it(kind: str) -> None:
    pipe = build("sd1")
    plain, other = said(pipe), type(pipe)(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    with Shift(0.5, kind).on(pipe):
        with pytest.warns(NotReachedWarning, match="that shares the .* of a pipeline is drawing") as told:
            assert torch.equal(said(other), plain) and torch.equal(said(other), plain)
        assert len(told) == 1
    with Shift(0.5, kind).on(pipe), Shift(1.0, kind).on(other):
        assert not torch.equal(said(other), plain) and not torch.equal(said(pipe), said(other))


def test_a_refiner_that_shares_a_text_encoder_is_told() -> None:
    pipe = build("sdxl")
    own = {"cross_attention_dim": 24, "projection_class_embeddings_input_dim": 5 * 8 + 20}
    unet = type(pipe.unet).from_config({**pipe.unet.config, **own})
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder_2", "tokenizer_2", "scheduler")}
    given: dict[str, Any] = {"text_encoder": None, "tokenizer": None, "requires_aesthetics_score": True}
    refiner = df.StableDiffusionXLImg2ImgPipeline(**parts, **given, unet=unet, add_watermarker=False)
    refiner.set_progress_bar_config(disable=True)
    call = {"image": torch.rand(1, 3, 32, 32), "num_inference_steps": 4, "output_type": "latent"}
    with Shift(0.5, "text").on(pipe), pytest.warns(NotReachedWarning, match="shares the CLIPTextModelWithProjection"):
        refiner("a red circle", **call)


def test_who_has_a_loop_of_his_own_is_told_that_no_rule_acts_in_it() -> None:
    view = PipelineView.of(build("sd1"))
    call = view.prepare(view.encode("a red circle"), height=32, width=32)
    arguments = call.with_inputs(call.latents, 500, view.encode("a red circle"))
    with Shift(0.5, "prediction").on(view), pytest.warns(NotReachedWarning, match="outside of its pipeline's call"):
        view.denoiser(**arguments)


def test_rows_of_text_that_come_past_the_edit_are_told_once() -> None:
    pipe = build("sd1")
    other = torch.cat(pipe.encode_prompt("the small star", "cpu", 1, True)[::-1])
    steps: list[Any] = []

    def change(_pipe: Any, _index: int, _t: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "prompt_embeds": other}

    def rule(step: Any) -> None:
        steps.append((step.embedding.prompts, (step.predict(step.embedding) - step.cond).abs().max() < 1e-4))

    call: dict[str, Any] = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    call |= {"height": 32, "width": 32, "num_inference_steps": 3, "output_type": "latent"}
    warned = pytest.warns(NotReachedWarning, match="given other rows of text than Shift.. has edited")
    with Shift(0.5, "text").on(pipe), PipelineView.of(pipe).guided(rule), warned as told:  # type: ignore[arg-type]
        pipe("a red circle", **call)
    assert len(told) == 1
    assert steps == [(("a red circle",), True), ((), True), ((), True)]  # a rule is given what is there


def test_a_denoiser_that_is_replaced_under_a_rule_is_told() -> None:
    pipe, other = build("sd1"), build("sd1").unet
    with Shift(0.5, "prediction").on(pipe):
        pipe.unet = other
        with pytest.warns(NotReachedWarning, match="the unet of this StableDiffusionPipeline was replaced"):
            said(pipe)
    with Shift(0.5, "text").on(pipe):
        pipe.unet = build("sd1").unet  # which edits of text do not mind
        said(pipe)


def test_weights_that_are_taken_of_a_part_of_a_pipeline_are_told(tmp_path: Any) -> None:
    pipe = build("sd1")
    with Shift(0.5, "text").on(pipe):
        for part in (pipe.unet, pipe.text_encoder):
            with pytest.warns(EffaceWarning, match=f"weights are taken of a {type(part).__name__} that an erasure"):
                part.state_dict()
        with pytest.raises(InputError, match="on this pipeline, which cannot be pickled with it"):
            torch.save(pipe, tmp_path / "pipe.pt")
    pipe.unet.state_dict()


@pytest.mark.parametrize("how", ["torch.compile", "compile"])
@pytest.mark.parametrize("kind", ["text", "prediction", "swap"])
def test_a_compiled_denoiser_is_seen_through(kind: str, how: str) -> None:
    expected, plain = {}, said(build("sd1"))
    for compiled in (False, True):
        pipe = build("sd1")
        if compiled and how == "compile":
            pipe.unet.compile(backend="eager")
        elif compiled:
            pipe.unet = torch.compile(pipe.unet, backend="eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.compile's own deprecations
            with Shift(0.5, kind).on(pipe):
                expected[compiled] = said(pipe)
            torch.testing.assert_close(said(pipe), plain)
    torch.testing.assert_close(expected[True], expected[False])


def test_another_text_encoder_than_that_of_the_fit_is_refused_untouched() -> None:
    pipe = build("sd1")
    known = efface.erase(pipe, "circle", method="semantic-surgery", preset="published", threshold=-2.0)
    before, guided = said(pipe), efface.erase(pipe, "circle", method="negative-prompt")
    with torch.no_grad():
        next(iter(pipe.text_encoder.parameters())).mul_(1.5)
    changed = said(pipe)
    for erasure in (known, known & guided):
        with pytest.raises(InputError, match="CLIPTextModel is not the model of the fit.*check=False"):
            erasure.on(pipe)
    assert torch.equal(said(pipe), changed) and not torch.equal(changed, before)
    with known.on(pipe, check=False), guided.on(pipe):
        assert not torch.equal(said(pipe), changed)


def test_a_text_encoder_that_changes_while_an_erasure_is_on_is_refused() -> None:
    pipe = build("sd1")
    known = efface.erase(pipe, "circle", method="semantic-surgery", preset="published", threshold=-2.0)
    with known.on(pipe):
        on = said(pipe)
        pipe.to(torch.bfloat16)
        said(pipe)  # the same model
        pipe.to(torch.float32)
        with torch.no_grad():
            next(iter(pipe.text_encoder.parameters())).data.mul_(1.5)  # as an adapter is fused
        with pytest.raises(InputError, match="CLIPTextModel is not the model of the fit"):
            said(pipe)
    with known.on(pipe, check=False):
        assert not torch.equal(said(pipe), on)


def test_a_token_that_was_taught_since_is_told_where_it_is_used() -> None:
    pipe = build("sd1")
    call = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "latent"}
    known = efface.erase(pipe, "circle", method="semantic-surgery", preset="published", threshold=-2.0)
    pipe.load_textual_inversion({"<cat>": torch.randn(1, 32)}, token="<cat>")
    with known.on(pipe):
        pipe("a circle", **call)
        with pytest.warns(NotReachedWarning, match="the prompt has '<cat>', which was added to the tokenizer"):
            pipe("a <cat>", **call)


def test_another_layer_of_the_text_encoder_than_that_of_the_fit_is_refused() -> None:
    pipe = build("sdxl")
    call = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "latent"}
    known = efface.erase(pipe, "circle", method="semantic-surgery", preset="published", threshold=-2.0)
    with known.on(pipe):
        pipe("a red circle", clip_skip=None, **call)
        with pytest.raises(InputError, match="clip_skip=1 takes another layer of the text encoder"):
            pipe("a red circle", clip_skip=1, **call)
    with efface.erase(pipe, "circle", method="negative-prompt").on(pipe):
        pipe("a red circle", clip_skip=1, **call)


@pytest.mark.parametrize("wrap", ["compile", "torch.compile", "forward", "data parallel"])
def test_wrappers_are_seen_through(wrap: str) -> None:
    model = layers()
    called: Any = model
    if wrap == "compile":
        model.compile(backend="eager")
    elif wrap == "torch.compile":
        called = torch.compile(model, backend="eager")
    elif wrap == "forward":
        model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    else:
        called = nn.DataParallel(model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.compile's own deprecations
        plain = called(X)
        for subject in (model, called):
            with Shift(0.5, "states").on(subject):
                assert not torch.allclose(called(X), plain)
            torch.testing.assert_close(called(X), plain)


def test_peft_is_seen_through() -> None:
    peft = pytest.importorskip("peft")
    model = tiny("llama")
    ids = torch.arange(8)[None] + 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for an old name
        wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2)).eval()
    delta = changing({"model.layers.0.self_attn.q_proj.weight": Multiply(left=torch.zeros(32, 32))})
    gone = Holds((OnWeights(delta), OnStates({Site("model.layers.0"): torch.zeros_like})))

    with torch.no_grad():
        plain = wrapped(input_ids=ids).logits
        with gone.on(wrapped) as run:
            assert not torch.allclose(wrapped(input_ids=ids).logits, plain)
            assert run.log.counts == {"model.layers.0": 1}
        assert torch.equal(wrapped(input_ids=ids).logits, plain)


def test_offloading_by_accelerate_is_seen_through() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = layers()
    plain = said(model)
    with Shift(0.5, "states").on(model):
        expected = said(model)
    accelerate.cpu_offload(model, execution_device="cpu")
    assert model[0].weight.device.type == "meta" and torch.equal(said(model), plain)
    with Shift(0.5, "states").on(model):
        assert torch.equal(said(model), expected)
    assert torch.equal(said(model), plain)
    with pytest.raises(InputError, match="not in memory"):
        Shift(0.5, "weights").on(model)
    assert torch.equal(said(model), plain)


# ------------------------------------------------------------------------------------------------- weights


def weights(**changes: Any) -> Erasure:
    return weights_of(changing({name.replace("_", "."): change for name, change in changes.items()}))


def test_every_change_of_weights_is_what_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    a, up, down, left, right, put = (
        torch.randn(*s, generator=generator) for s in ((4, 4), (4, 2), (2, 4), (4, 4), (4, 4), (4, 4))
    )
    w = layers()[0].weight.detach()
    for change, expected in (
        (Add(a), w.double() + a.double()),
        (LowRank(up, down), w.double() + up.double() @ down.double()),
        (Multiply(left=left), left.double() @ w.double()),
        (Multiply(right=right), w.double() @ right.double()),
        (Multiply(left, right), left.double() @ w.double() @ right.double()),
        (Put(put), put),
    ):
        model = layers()
        old = model[0].weight
        with weights(**{"0_weight": change}).on(model):
            assert torch.equal(model[0].weight, expected.float()) and model[0].weight.requires_grad
        assert model[0].weight is old


@pytest.mark.parametrize("convert", ["bfloat16", "half", "double"])
def test_undo_after_a_conversion_and_back(convert: str) -> None:
    model = layers()
    old = [p.detach().clone() for p in model.parameters()]
    run = Shift(0.5, "weights").on(model)
    getattr(model, convert)()
    run.undo()
    for p, before in zip(model.parameters(), old, strict=True):
        assert torch.equal(p, before.to(p.dtype))
    model = layers()
    run = Shift(0.5, "weights").on(model)
    getattr(model, convert)()
    model.float()
    run.undo()
    for name, p in model.named_parameters():
        edited = name in ("0.weight", "1.bias")
        expected = dict(layers().named_parameters())[name]
        assert torch.equal(p, expected if edited else getattr(expected, convert)().float())


def test_weights_that_were_trained_since_are_not_lost_unasked() -> None:
    model = layers()
    old = model[0].weight
    run = Shift(0.5, "weights").on(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).square().mean().backward()
    optimizer.step()
    trained = model[0].weight.detach().clone()
    with pytest.raises(InputError, match=r"changed since .*undo\(force=True\)"):
        run.undo()
    assert run.is_on and torch.equal(model[0].weight, trained)
    run.undo(force=True)
    assert model[0].weight is old and not run.is_on


def test_an_undo_that_is_refused_leaves_all_of_it_on() -> None:
    model = layers()
    before = state(model)
    run = (Shift(0.5, "states") & Shift(0.5, "weights") & Shift(0.25, "states")).on(model)
    on = said(model)
    over = Shift(0.25, "weights").on(model)
    with pytest.raises(InputError, match="undo that one first"):
        run.undo()
    over.undo()
    assert run.is_on and torch.equal(said(model), on)
    run.undo()
    assert same(state(model), before)


def test_what_comes_off_together_need_not_come_off_in_order() -> None:
    model = layers()
    before = state(model)
    run = (Shift(0.5, "weights") & Shift(0.25, "weights")).on(model)
    run.undo()
    assert same(state(model), before)


def test_a_layer_that_was_parametrised_since_is_not_written_over() -> None:
    model = layers()
    old = model[0].weight
    run = Shift(0.5, "weights").on(model)
    nn.utils.parametrizations.weight_norm(model[0])
    for force in (False, True):
        with pytest.raises(InputError, match="no parameter any more"):
            run.undo(force=force)
    assert run.is_on
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    run.undo(force=True)
    assert model[0].weight is old


def test_a_weight_that_was_deleted_comes_back_by_force() -> None:
    model = layers()
    old = model[0].weight
    run = Shift(0.5, "weights").on(model)
    del model[0].weight
    with pytest.raises(InputError, match="no parameter any more"):
        run.undo()
    run.undo(force=True)
    assert model[0].weight is old


@pytest.mark.parametrize("trains", [True, False])
def test_a_model_that_was_frozen_or_thawed_since_stays_so(trains: bool) -> None:
    model = layers().requires_grad_(not trains)
    with Shift(0.5, "weights").on(model):
        model.requires_grad_(trains)
    assert all(p.requires_grad is trains for p in model.parameters())


def test_switches_of_the_config_come_and_go_with_the_weights() -> None:
    model = layers()
    delta = WeightDelta({"0.weight": (Add(torch.ones(4, 4)),)}, config={"tied": False, "new": 1})
    before = state(model)
    with pytest.raises(InputError, match=r"model\.config, which this model does not have"):
        weights_of(delta).on(model)
    assert same(state(model), before)
    model.config = argparse.Namespace(tied=True)
    with weights_of(delta).on(model):
        assert vars(model.config) == {"tied": False, "new": 1}
    assert vars(model.config) == {"tied": True}


def test_a_scripted_model_is_refused() -> None:
    with pytest.raises(InputError, match="scripted"):
        Shift(0.5, "rows").on(torch.jit.script(nn.Linear(4, 4)))


def test_another_base_is_refused() -> None:
    model, other = layers(), layers()
    with torch.no_grad():
        other[0].weight.mul_(2)
    delta = WeightDelta.between(model, other)
    assert list(delta.changes) == ["0.weight"]
    tuned = Holds((OnWeights(delta),))

    with tuned.on(model):
        assert torch.equal(model[0].weight, other[0].weight)
    before = state(other)
    with pytest.raises(InputError, match="with other weights than this one has"):
        tuned.on(other)
    with pytest.raises(InputError, match="no '0'"):
        tuned.on(nn.Linear(2, 2), check=False)
    assert same(state(other), before)
    tuned.on(other, check=False).undo()
    assert same(state(other), before)


def test_what_cannot_be_edited_is_refused_untouched() -> None:
    with pytest.raises(InputError, match="not in memory"):
        weights(**{"0_weight": Add(torch.ones(4, 4))}).on(layers().to("meta"))
    with pytest.raises(InputError, match="not finite"):
        weights(**{"0_weight": Add(torch.full((4, 4), torch.inf))}).on(layers())
    with pytest.raises(InputError, match="does not fit"):
        weights(**{"0_weight": LowRank(torch.ones(3, 1), torch.ones(1, 4))}).on(layers())
    with pytest.raises(InputError, match="does not fit"):
        weights(**{"0_bias": Multiply(left=torch.eye(4))}).on(layers())
    with pytest.raises(InputError, match="is real and its edit is complex"):
        weights(**{"0_weight": Add(torch.full((4, 4), 1j))}).on(layers())
    quantised = layers()
    quantised[0].weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="quantised"):
        weights(**{"0_weight": Add(torch.ones(4, 4))}).on(quantised)


def test_scaling_and_joining_deltas() -> None:
    add, low = Add(torch.ones(4, 4)), LowRank(torch.ones(4, 1), torch.ones(1, 4))
    delta = changing({"0.weight": add, "1.weight": low})
    model = layers()
    w = [m.weight.detach().double() for m in model]
    with weights_of(delta.scaled(0.5)).on(model):
        assert torch.equal(model[0].weight, (w[0] + 0.5).float()) and torch.equal(model[1].weight, (w[1] + 0.5).float())
    twice = delta.then(changing({"0.weight": Multiply(left=2 * torch.eye(4))}))
    with weights_of(twice).on(model):
        assert torch.equal(model[0].weight, (2 * (w[0] + 1)).float())
    with pytest.raises(InputError, match="no multiple"):
        twice.scaled(0.5)
    assert delta.nbytes == 4 * (16 + 8)


def weights_of(delta: WeightDelta) -> Erasure:
    return Holds((OnWeights(delta),))


def test_models_with_dropout_and_gradients() -> None:
    """A trained subject keeps its gradients, and gradients flow through edits."""
    model = layers()
    with Shift(0.5, "states").on(model):
        model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
