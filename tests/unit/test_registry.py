"""The registry: one for all subjects, complete whatever was imported, and telling what there is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import efface
from efface import EffaceWarning, InputError, MissingExtraError
from efface.core import discovery
from efface.core.config import Config
from efface.core.erasure import Erasure
from efface.core.method import Method, get_method, methods, register, unregister

MADE: list[Method] = []


def make(name: str, *subjects: Any, **more: Any) -> Method:
    about = {"summary": "one line", "paper": "arXiv:0", "guarantee": "nothing", "no_guarantee": "anything"}
    method = Method(
        name, subjects or ("rows",), fit=lambda x, z, config, *, extra=None: None, erasure=Erasure, **about, **more
    )
    MADE.append(method)
    return method


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    yield
    while MADE:
        unregister(MADE.pop())


def test_methods_come_in_order_of_name_and_by_subject() -> None:
    before = methods("rows")
    for name in ("zz", "aa"):
        register(make(name, "rows", "classifier"))
    assert [m.name for m in methods("rows")] == ["aa", *(m.name for m in before), "zz"]
    assert "zz" in {m.name for m in methods("classifier")} and "zz" not in {m.name for m in methods("pipeline")}
    assert len([m for m in methods() if m.name == "zz"]) == 1
    assert methods(torch.zeros(2, 2)) == methods("rows")
    assert {*methods(nn.Linear(2, 2))} == {*methods("model"), *methods("classifier")}


def test_methods_of_one_name_come_in_order_of_subject() -> None:
    for kind in ("pipeline", "classifier", "model", "rows"):
        register(make("zz", kind))
    assert [m.subjects for m in methods() if m.name == "zz"] == [("rows",), ("model",), ("pipeline",), ("classifier",)]
    assert [m.subjects[0] for m in methods() if m.name == "leace"] == ["rows", "model"]


def test_a_name_is_given_once() -> None:
    method = register(make("once"))
    assert register(method) is method and get_method("once") is method
    with pytest.raises(InputError, match="'once' for rows is already registered"):
        register(make("once"))
    MADE.pop()
    with pytest.raises(InputError, match="'once' for rows is already registered"):
        register(make("once", "pipeline", "rows"))
    MADE.pop()
    assert "once" not in {m.name for m in methods("pipeline")}  # all of its subjects, or none
    with pytest.raises(InputError, match="unknown subject 'images'"):
        make("other", "images")


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(InputError, match=r"unknown method 'lease' \(did you mean 'leace'\?\): choose one of .*leace"):
        get_method("lease", "rows")
    with pytest.raises(InputError, match="'sld' erases from pipeline, not from rows: choose one of"):
        get_method("sld", "rows")
    register(make("two-fold", "model"))
    register(make("two-fold", "classifier"))
    with pytest.raises(InputError, match="'two-fold' erases from model and classifier, not from rows: choose one of"):
        get_method("two-fold", "rows")
    with pytest.raises(InputError, match="unknown subject 'vector': choose one of rows, model, pipeline, classifier"):
        methods("vector")
    with pytest.raises(InputError, match="nothing that efface erases from"):
        methods(object())


def test_what_a_fit_takes_besides_options() -> None:
    method = make("takes")
    assert method.data == ("extra",)
    config, data = method.configured({"extra": 3})
    assert config == Config() and data == {"extra": 3}
    with pytest.raises(InputError, match=r"method='takes' has no option 'extras' .*did you mean 'extra'"):
        method.configured({"extras": 3})


def test_one_name_for_several_subjects_is_the_one_asked_for() -> None:
    assert get_method("leace").subjects == ("rows",) and get_method("leace", "model").subjects == ("model",)
    assert get_method("leace", nn.Linear(2, 2)).subjects == ("model",)


def test_rooms_that_register_are_found_by_their_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "efface"
    for folder in ("a", "b/c"):
        (root / folder).mkdir(parents=True)
        (root / folder / "one.py").touch()
        (root / folder / "two.py").touch()
    (root / "a" / discovery.MARKER).touch()
    (root / "b" / "c" / discovery.MARKER).write_text("two\n")
    monkeypatch.setattr(discovery, "_ROOT", root)
    assert discovery._own() == ["efface.a.one", "efface.a.two", "efface.b.c.two"]


def test_a_package_that_is_broken_takes_nothing_else_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "efface_broken.py").write_text("1 / 0\n")
    (tmp_path / "efface_whole.py").write_text("here = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "_foreign", lambda: ["efface_nowhere", "efface_broken", "efface_whole"])
    monkeypatch.setattr(discovery, "_done", False)
    with pytest.warns(EffaceWarning) as told:
        assert get_method("leace").name == "leace"
    assert ["'efface_nowhere'" in str(told[0].message), "ZeroDivisionError" in str(told[1].message)] == [True, True]
    assert len(told) == 2 and "efface_whole" in sys.modules
    monkeypatch.delitem(sys.modules, "efface_whole")


def test_a_method_that_lacks_an_extra_names_it() -> None:
    register(make("lacks", requires={"no_such_package": "files"}))
    with pytest.raises(MissingExtraError, match=r"'no_such_package'.*efface\[files\]"):
        efface.erase(torch.randn(20, 3), torch.arange(20) % 2, method="lacks")


def test_a_method_that_cannot_be_named_wrong() -> None:
    x: Tensor = torch.randn(20, 3)
    with pytest.raises(InputError, match="did you mean 'leace'"):
        efface.erase(x, torch.arange(20) % 2, method="leacee")
    with pytest.raises(InputError, match="did you mean 'shrinkage'"):
        efface.erase(x, torch.arange(20) % 2, shrinkge=True)
