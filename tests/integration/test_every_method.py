"""What every method of every subject must do: a method that registers itself is driven through all of this."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import pickle
import re
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import efface
from efface import EffaceWarning, FormatError, InputError, Scrubber
from efface._errors import UnknownOptionWarning
from efface.core.config import choices_of
from efface.core.edits import OnWeights
from efface.core.installer import handles_on
from efface.core.method import Method, register, unregister
from efface.core.weights import Put
from efface.erasers.base import Eraser
from efface.erasers.leace import LeaceEraser
from tests.cases import CASES, Case
from tests.toys import TOYS

REGISTERED = [(subject, method) for subject in CASES for method in efface.methods(subject)]
ALL = [*REGISTERED, *((toy.subjects[0], toy) for toy in TOYS)]
"""Toys are registered for the length of their tests: what a new method needs to pass is what they are made of."""
every_method = pytest.mark.parametrize(("subject", "method"), ALL, ids=[f"{s}-{m.name}" for s, m in ALL])
PUT_ON = [(s, m) for s, m in ALL if s != "rows"]
every_put_on = pytest.mark.parametrize(("subject", "method"), PUT_ON, ids=[f"{s}-{m.name}" for s, m in PUT_ON])


@cache
def fitted(subject: str, name: str) -> Any:
    """One erasure a method; it is frozen, so that tests may share it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EffaceWarning)
        return CASES[subject].fit(efface.get_method(name, subject))


def put_on(erasure: Any, subject: Any) -> Any:
    return erasure.on(subject)


@pytest.fixture(autouse=True)
def _registered(request: pytest.FixtureRequest) -> Any:
    method = request.node.callspec.params.get("method") if hasattr(request.node, "callspec") else None
    if method not in TOYS:
        yield
        return
    register(method)
    yield
    unregister(method)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", EffaceWarning
        )  # small data: what a method thinks of it is its own tests' matter
        yield


def given(case: Case, erasure: Any, subject: Any = None) -> Tensor:
    """What an erasure makes of the subject of a case."""
    subject = case.subject() if subject is None else subject
    if isinstance(erasure, Eraser):
        labels = case.concept.labels
        return erasure(subject, labels) if erasure.takes_labels else erasure(subject)
    with put_on(erasure, subject):
        return case.said(subject)


@cache
def plain(subject: str) -> Tensor:
    """What the subject of a case gives without any erasure."""
    return CASES[subject].said(CASES[subject].subject())


@cache
def erased(subject: str, name: str) -> Tensor:
    """What a method's erasure makes of it."""
    return given(CASES[subject], fitted(subject, name))


def state(subject: Any) -> list[Any]:
    """All that a fit or an erasure could leave behind in a subject."""
    if isinstance(subject, Tensor):
        return [subject.clone()]
    parts = [subject] if isinstance(subject, nn.Module) else list(subject.components.values())
    found: list[Any] = [sorted(vars(subject))]
    for part in parts:
        if isinstance(part, nn.Module):
            found += [part.training, *(v.clone() for v in part.state_dict().values())]
            found.append(sum(_hooks(module) for module in part.modules()))
    return found


def _hooks(module: nn.Module) -> int:
    """How many hooks a module has, but for those that transformers keeps on it once it was asked for hidden states."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return sum(not getattr(hook, "__module__", "").startswith("transformers") for hook in hooks)


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


# ------------------------------------------------------------------------------------------- what it says


@every_method
def test_it_says_what_it_is(subject: str, method: Method) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", method.name)
    assert method.paper and method.guarantee and method.no_guarantee and method.access and method.access_on
    assert len(method.summary) < 120 and not method.summary.endswith(".")
    for option in method.config.options():
        assert option.help and len(option.help) < 120, f"{method.name}: {option.name} has no line of help"


@every_method
def test_its_erasure_knows_what_it_is(subject: str, method: Method) -> None:
    erasure, concept = fitted(subject, method.name), CASES[subject].concept
    assert isinstance(erasure, method.erasure) and erasure.method == method.name
    assert erasure.names == (getattr(concept, "name", concept),)
    assert type(erasure.config) is method.config or erasure.config is None
    assert {"seconds", "cpu_seconds", "peak_process_bytes"} <= erasure.provenance["cost"].keys()
    assert erasure.provenance["efface"] == efface.__version__ and "efface.erase(" in erasure.provenance["call"]
    plain = erasure.describe()
    assert json.loads(json.dumps(plain)) == plain and plain["sha256"] == erasure.digest
    assert type(erasure).__name__ in repr(erasure) and len(repr(erasure)) < 500


# ----------------------------------------------------------------------------------------------- the fit


@every_method
def test_a_fit_leaves_its_subject_alone_and_can_be_repeated(subject: str, method: Method) -> None:
    case = CASES[subject]
    thing = case.subject()
    before, random = state(thing), torch.get_rng_state()
    once = efface.erase(thing, case.concept, method=method.name, **case.given(method))
    assert same(state(thing), before) and torch.equal(torch.get_rng_state(), random)
    assert once == fitted(subject, method.name) and hash(once) == hash(fitted(subject, method.name))


@every_method
def test_bad_options_are_refused(subject: str, method: Method) -> None:
    case, thing = CASES[subject], CASES[subject].subject()
    with pytest.raises(InputError, match=f"{method.name}.* has no option 'nonsense'.*it has"):
        case.fit(method, thing, nonsense=1)
    for option in method.config.options():
        if option.choices and len(option.choices) == len(option.type.split(" or ")):
            with pytest.raises(InputError, match=rf"{option.name}='nonsense'.*choose one of"):
                case.fit(method, thing, **{option.name: "nonsense"})
        elif option.type in ("a number", "a whole number"):
            with pytest.raises(InputError, match=option.name):
                case.fit(method, thing, **{option.name: "nonsense"})
            with pytest.raises(InputError, match=option.name):
                case.fit(method, thing, **{option.name: float("nan")})


@every_method
def test_every_default_is_a_value_that_is_taken(subject: str, method: Method) -> None:
    given = {o.name: o.default for o in method.config.options() if o.default is not dataclasses.MISSING}
    needed = {o.name for o in method.config.options()} - {*given}
    config = method.config.of({**given, **{k: v for k, v in CASES[subject].data().items() if k in needed}})
    assert {name: getattr(config, name) for name in given} == given


@every_method
def test_the_wrong_subject_and_concept_are_refused(subject: str, method: Method) -> None:
    case = CASES[subject]
    data = case.given(method)
    with pytest.raises(InputError):
        efface.erase(case.wrong(), case.concept, method=method.name, **data)
    with pytest.raises(InputError, match="choose one of"):
        efface.get_method("no-such-method", subject)
    if subject == "pipeline":
        with pytest.raises(InputError):
            efface.erase(case.subject(), [], method=method.name, **data)
        with pytest.raises(InputError):
            efface.erase(case.subject(), 3, method=method.name, **data)
    elif subject != "classifier":
        with pytest.raises(InputError, match="has no labels"):
            efface.erase(case.subject(), efface.Concept("bare"), method=method.name, **data)
        with pytest.raises(InputError):
            efface.erase(case.subject(), torch.zeros(3, dtype=torch.long), method=method.name, **data)


# --------------------------------------------------------------------------------------------- as a value


@every_method
def test_it_is_a_value(subject: str, method: Method) -> None:
    erasure = fitted(subject, method.name)
    for twin in (copy.copy(erasure), copy.deepcopy(erasure), pickle.loads(pickle.dumps(erasure))):
        assert twin == erasure and hash(twin) == hash(erasure) and twin.digest == erasure.digest
    with pytest.raises(AttributeError):
        erasure.method = "other"
    assert erasure != "other" and erasure in {erasure}


@every_method
def test_it_does_something_and_the_same_after_saving(subject: str, method: Method, tmp_path: Path) -> None:
    case, erasure = CASES[subject], fitted(subject, method.name)
    erasure.save(tmp_path / "e")
    for again in (efface.load(tmp_path / "e"), type(erasure).load(tmp_path / "e")):
        assert again == erasure and again.config == erasure.config and again.concepts == erasure.concepts
        assert again.provenance == json.loads(json.dumps(erasure.provenance))
    found = erased(subject, method.name)
    assert torch.equal(given(case, efface.load(tmp_path / "e")), found)
    assert not torch.equal(found, plain(subject)), f"{method.name} does nothing in its case"
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["e"]
    card = (tmp_path / "e" / "README.md").read_text()
    for text in (method.guarantee, method.no_guarantee, method.paper, erasure.names[0], erasure.digest, "efface.load"):
        assert text in card


@every_method
def test_files_of_other_versions(subject: str, method: Method, tmp_path: Path) -> None:
    erasure = fitted(subject, method.name)
    if erasure.config is None or not erasure.config.options():
        pytest.skip("it has no options")
    erasure.save(tmp_path / "e")
    config = tmp_path / "e" / "config.json"
    plain = json.loads(config.read_text())
    first = next(o for o in erasure.config.options() if getattr(erasure.config, o.name) == o.default)
    older = {k: v for k, v in plain["config"].items() if k != first.name}
    config.write_text(json.dumps({**plain, "config": older}))
    assert efface.load(tmp_path / "e") == erasure
    config.write_text(json.dumps({**plain, "config": {**plain["config"], "from_the_future": [1, 2]}}))
    with pytest.warns(UnknownOptionWarning, match="from_the_future"):
        newer = efface.load(tmp_path / "e")
    assert newer.config.unknown == {"from_the_future": [1, 2]}
    newer.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["config"]["from_the_future"] == [1, 2]
    config.write_text(json.dumps({**plain, "format_version": 99}))
    with pytest.raises(FormatError, match="upgrade"):
        efface.load(tmp_path / "e")


BROKEN = (None, -1, "x", [], {}, [[]], "../../etc", 1e19)


@every_method
def test_damaged_files_are_refused_in_our_own_words(subject: str, method: Method, tmp_path: Path) -> None:
    """Every field by every kind of nonsense: it loads as what it is, or a FormatError says why not."""
    erasure = fitted(subject, method.name)
    erasure.save(tmp_path / "e")
    config, tensors = tmp_path / "e" / "config.json", tmp_path / "e" / "model.safetensors"
    plain, content = json.loads(config.read_text()), tensors.read_bytes()

    def load() -> None:
        with contextlib.suppress(FormatError, FileNotFoundError):
            efface.load(tmp_path / "e")

    for name in plain:
        for value in BROKEN:
            config.write_text(json.dumps({**plain, name: value}))
            load()
        config.write_text(json.dumps({k: v for k, v in plain.items() if k != name}))
        load()
    config.write_text(json.dumps({**plain, "type": "Other"}))
    with pytest.raises(FormatError, match="'Other'"):
        efface.load(tmp_path / "e")
    config.write_text(json.dumps(plain))
    known = load_file(tensors)
    for name in {name.rpartition(".")[2]: name for name in known}.values():  # one of those that layers have in common
        value = known[name]
        if value.is_floating_point() and value.numel():
            save_file({**known, name: torch.full_like(value, torch.nan)}, tensors)
            with pytest.raises(FormatError, match="NaN or infinite"):
                efface.load(tmp_path / "e")
        save_file({k: v for k, v in known.items() if k != name}, tensors)
        with pytest.raises(FormatError, match="missing"):
            efface.load(tmp_path / "e")
    tensors.write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="truncated"):
        efface.load(tmp_path / "e")
    with pytest.raises(FileNotFoundError):
        efface.load(tmp_path / "nowhere")


@every_method
def test_saving_overwrites_nothing_unasked(subject: str, method: Method, tmp_path: Path) -> None:
    erasure = fitted(subject, method.name)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="overwrite=True"):
        erasure.save(tmp_path / "e")
    assert [p.name for p in (tmp_path / "e").iterdir()] == ["mine.txt"]
    erasure.save(tmp_path / "e", overwrite=True)
    assert efface.load(tmp_path / "e") == erasure and (tmp_path / "e" / "mine.txt").read_text() == "mine"


# --------------------------------------------------------------------------------------------- on and off


@every_put_on
def test_on_and_off(subject: str, method: Method) -> None:
    case, erasure = CASES[subject], fitted(subject, method.name)
    thing = case.subject()
    once, before = case.said(thing), state(thing)  # a pipeline's first call leaves attributes of its own
    with put_on(erasure, thing) as run:
        on = case.said(thing)
        assert copy.deepcopy(erasure) == pickle.loads(pickle.dumps(erasure)) == erasure
        assert handles_on(thing) == (run,) and run.erasure is erasure
        json.dumps(run.log.to_dict())
        with pytest.raises(InputError, match="already"):
            put_on(erasure, thing)
    assert not torch.equal(on, once)
    thing_state = state(thing)
    assert same(thing_state, before) and torch.equal(case.said(thing), once)
    run.undo()


@every_put_on
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exceptions(subject: str, method: Method, error: type[BaseException]) -> None:
    case, erasure = CASES[subject], fitted(subject, method.name)
    thing = case.subject()
    before = state(thing)
    with pytest.raises(error), put_on(erasure, thing):
        raise error
    assert same(state(thing), before) and not handles_on(thing)


@every_put_on
def test_nesting_with_itself_on_another_concept(subject: str, method: Method) -> None:
    """Another erasure of the method goes on and off beside it, in either order where the edits commute."""
    case, erasure = CASES[subject], fitted(subject, method.name)
    thing = case.subject()
    other = case.fit(method, thing, **_another(subject, method))
    once, before = case.said(thing), state(thing)  # a pipeline's first call leaves attributes of its own
    with put_on(erasure, thing):
        alone = case.said(thing)
        if _replaces(other):
            with pytest.raises(InputError, match="undo that one first|already"):
                put_on(other, thing)
        elif other != erasure:
            checked = {}
            if isinstance(other, Scrubber):  # each gets other states than those of its fit
                with pytest.raises(InputError, match="both concepts come back in part"):
                    put_on(other, thing)
                checked = {"check": False}
            with other.on(thing, **checked):
                assert len(handles_on(thing)) == 2
                case.said(thing)
        assert torch.equal(case.said(thing), alone)
    assert same(state(thing), before) and torch.equal(case.said(thing), once)


def _replaces(erasure: Any) -> bool:
    """Whether it puts values in the place of others, so that it cannot lie over another edit."""
    deltas = [edit.delta for edit in erasure.edits if isinstance(edit, OnWeights)]
    return any(isinstance(change, Put) for delta in deltas for each in delta.changes.values() for change in each)


def _another(subject: str, method: Method) -> dict[str, Any]:
    """An option that makes another erasure, if there is a choice."""
    for option in method.config.options():
        if option.default in (True, False) and isinstance(option.default, bool):
            return {option.name: not option.default}
    return {}


@every_put_on
def test_subjects_that_do_not_suit_it_are_left_untouched(subject: str, method: Method) -> None:
    case, erasure = CASES[subject], fitted(subject, method.name)
    wrong, other = case.wrong(), case.other()
    before = state(wrong), state(other)
    with pytest.raises(InputError, match="is for a"):
        put_on(erasure, wrong)
    with contextlib.suppress(InputError):  # what is made of words alone suits any pipeline that knows them
        put_on(erasure, other).undo()
    assert same(state(wrong), before[0]) and same(state(other), before[1])
    assert not handles_on(wrong) and not handles_on(other)
    with pytest.raises(InputError, match="an array"):
        put_on(erasure, torch.zeros(2, 2))


@every_put_on
def test_two_threads_on_two_subjects(subject: str, method: Method) -> None:
    case, erasure = CASES[subject], fitted(subject, method.name)
    expected = erased(subject, method.name)
    found: list[Any] = [None, None]
    subjects = [case.subject(), case.subject()]

    def work(i: int) -> None:
        found[i] = given(case, erasure, subjects[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each is not None and torch.equal(each, expected) for each in found)


@every_method
def test_joined_with_another(subject: str, method: Method, tmp_path: Path) -> None:
    erasure = fitted(subject, method.name)
    with pytest.raises(InputError, match="twice"):
        _ = erasure & erasure
    other = dataclasses.replace(erasure, concepts=(efface.Concept("other"),))
    both = erasure & other
    assert both.names == (*erasure.names, "other")
    if isinstance(erasure, LeaceEraser):  # one projection for both
        assert type(both) is LeaceEraser
    else:
        assert both.parts == (erasure, other)
    both.save(tmp_path / "both")
    assert efface.load(tmp_path / "both") == both


def test_the_registry_is_complete_whatever_was_imported() -> None:
    """In a process that has imported nothing else."""
    import subprocess
    import sys

    code = "import efface; print(*sorted(f'{s}-{m.name}' for m in efface.methods() for s in m.subjects))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == sorted(f"{s}-{m.name}" for s, m in REGISTERED)
    code = "import efface; efface.get_method('sld')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_choices_come_from_types() -> None:
    assert choices_of(Any) == ()
