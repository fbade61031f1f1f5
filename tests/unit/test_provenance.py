"""Provenance: what a result was made from, without anything of this machine or, where asked, of this moment."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import efface.audit
from efface import LeaceFitter
from efface.cli import main
from efface.core.provenance import called, content_hash, provenance


def test_it_is_plain_data_with_versions_and_no_more_than_is_known() -> None:
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"efface", "libraries", "date"}
    assert found["libraries"]["torch"] == torch.__version__ and found["libraries"]["numpy"] == np.__version__
    assert abs(datetime.fromisoformat(found["date"]) - datetime.now(UTC)) < timedelta(minutes=5)


def test_the_clock_can_be_given_or_set(monkeypatch: pytest.MonkeyPatch) -> None:
    there = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    assert provenance(now=lambda: there)["date"] == "2026-01-02T01:04:05Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert provenance()["date"] == "1970-01-02T00:00:00Z"
    assert provenance() == provenance()


def test_subjects_are_named_and_hashed_as_far_as_they_say(tmp_path: Path) -> None:
    class Pipe:
        name_or_path = "someone/some-model"

    local = Pipe()
    local.name_or_path = str(tmp_path / "mine")
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    eraser = LeaceFitter.fit(x, (x[:, 0] > 0).long()).eraser
    found = provenance(subject=[Pipe(), local, nn.Linear(2, 2), eraser, None, "table", {"name": "a", "sha256": "b"}, x])
    names = [each["name"].split(".")[-1] for each in found["subject"]]
    assert names[1:] == ["Pipe mine", "Linear", "LeaceEraser", "table", "a", "Tensor(20, 3)"]
    assert found["subject"][0]["name"].endswith("Pipe someone/some-model")
    assert found["subject"][3]["sha256"] == eraser.digest and found["subject"][5]["sha256"] == "b"
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.parametrize(
    "other",
    [
        np.array([[0.0, 1.0], [2.0, 4.0]]),
        np.array([0.0, 1.0, 2.0, 3.0]),
        np.array([[0.0, 1.0], [2.0, 3.0]], dtype=np.float32),
        torch.tensor([[0, 1], [2, 3]]),
    ],
    ids=["value", "shape", "dtype", "integers"],
)
def test_a_hash_tells_contents_apart(other: Any) -> None:
    x = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert content_hash(x) != content_hash(other)
    assert content_hash(x) == content_hash(torch.from_numpy(x)) == content_hash(np.asfortranarray(x))


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, dtype=torch.bfloat16),
        torch.zeros(2, dtype=torch.complex64).conj(),
        torch.zeros(0, 3),
        torch.tensor(1.0, requires_grad=True),
        ["a", "b"],
        np.array(["a", None], dtype=object),
        {"h.0": torch.zeros(2), "h.1": torch.ones(2)},
        [torch.zeros(2), torch.ones(2)],
        [True, False],
    ],
    ids=["bfloat16", "conjugate", "empty", "scalar", "text", "objects", "mapping", "several", "booleans"],
)
def test_a_hash_of_anything_that_is_audited(value: Any) -> None:
    assert len(content_hash(value)) == 64 and content_hash(value) == content_hash(value)


def test_a_mapping_has_no_order_and_its_names_count() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    assert content_hash({"a": a, "b": b}) == content_hash({"b": b, "a": a}) != content_hash({"a": b, "b": a})


def test_a_file_has_the_hash_that_other_programs_give(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"efface" * 400_000)
    assert content_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert provenance(data={"x": path, "z": None})["data"] == [{"name": "x", "sha256": content_hash(path)}]


def test_calls_are_short_and_have_no_addresses() -> None:
    class Erase:
        def __call__(self, x: Any) -> Any: ...

    given = {"x": torch.zeros(3, 2), "erase": Erase(), "name": "sex" * 50, "probes": ("linear",), "groups": None}
    text = called("f", {**given, "control": {"a": np.zeros(3)}, "level": 0.95, "title": ""})
    assert text.startswith("f(x=Tensor(3, 2), erase=Erase, name='sexsex") and "…" in text
    assert text.endswith("probes=['linear'], control={'a': ndarray(3,)}, level=0.95)") and "0x" not in text


def test_an_audit_says_where_it_comes_from_and_is_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, 60)
    x = rng.normal(size=(60, 3)) + 2 * z[:, None]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")

    def audited() -> Any:
        return efface.audit.rows(x, z, fit=_halved, probes=["linear"], seed=3)

    found = audited().provenance
    assert found["date"] == "1970-01-01T00:00:00Z" and found["seed"] == 3
    assert {each["name"]: each["sha256"] for each in found["data"]} == {"x": content_hash(x), "z": content_hash(z)}
    assert found["subject"] == [{"name": "_halved", "sha256": ""}] and "fit=_halved" in found["call"]
    assert audited().html() == audited().html() and audited().json() == audited().json()


def _halved(x: Any, z: Any) -> Any:
    return lambda rows: rows / 2


def test_a_report_of_the_command_line_has_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(60, 3)))
    np.save(tmp_path / "z.npy", rng.integers(0, 2, 60))
    np.save(tmp_path / "after.npy", np.zeros((60, 3)))
    given = [str(tmp_path / "x.npy"), "--concept", str(tmp_path / "z.npy"), "--after", str(tmp_path / "after.npy")]
    assert main(["audit", *given, "-o", str(tmp_path / "r.json")]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "r.json").read_text())["provenance"]
    assert found["call"].startswith("efface audit ") and found["call"].endswith("r.json") and len(found["data"]) == 2
