"""How the command line is used: what it lists and completes, what it takes for a method, and what it will not do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import efface
from efface.cli import completion, erasing, main
from efface.erasers.leace import LeaceFitter
from tests.cases import QUICK
from tests.integration.test_cli import fails, make_data, make_table
from tests.pipelines import build


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with X, its labels and a table."""
    monkeypatch.chdir(tmp_path)
    x, z = make_data()
    np.save("X.npy", x)
    np.save("z.npy", z)
    make_table().to_csv("people.csv", index=False)
    return tmp_path


FIT = ["fit", "X.npy", "--concept", "z.npy", "-o", "eraser"]


# What there is


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(argv) == 0
    return capsys.readouterr().out


def test_alone_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys) == said(capsys, "--help") and "methods" in said(capsys)


@pytest.mark.parametrize("subject", ["rows", "model", "pipeline", "classifier"])
def test_methods_lists_and_explains_all(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = said(capsys, "methods")
    for method in efface.methods(subject):
        assert method.name in table
        page = " ".join(said(capsys, "methods", method.name).split())
        assert method.guarantee in page and method.no_guarantee in page and method.paper in page
        for option in method.config.options():
            assert f"{option.name} (" in page and option.help in page


@pytest.mark.parametrize(
    ("command", "some", "not_some"),
    [
        ("fit", "leace", "sld"),
        ("audit", "mean-difference", "cgce"),
        ("generate", "sld", "leace"),
        ("erase", "uce", "leace"),
        ("explain", "qfa", "sld"),
    ],
)
def test_methods_of_a_command_need_nothing_else(
    command: str, some: str, not_some: str, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = said(capsys, command, "--method", "help")
    assert f"  {some} " in listed and f"  {not_some} " not in listed
    assert "--method" in said(capsys, command, "--method", some, "--help")


def test_help_after_a_method_is_about_it_for_this_command(capsys: pytest.CaptureFixture[str]) -> None:
    page = said(capsys, "fit", "--method", "leace", "--help")
    assert page.startswith(said(capsys, "fit", "--help").rstrip()) and "shrinkage (True or False; default true)" in page
    assert "sites" not in page.partition("leace, for rows")[2]


# What comes near


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("fti X.npy", "No such command 'fti'. Did you mean 'fit'?"),
        ("fit X.npy --concpt z.npy -o e", "--concpt. Did you mean '--concept'?"),
        ("fit X.npy --concept z.npy -o e --method leac", "did you mean 'leace'?"),
        ("fit X.npy --concept z.npy -o e --set shrinkge=no", "no option 'shrinkge' (did you mean 'shrinkage'?)"),
        ("fit people.csv --concept grup -o e", "did you mean 'group'?"),
        ("fit people.csv --concept group --exclude nam -o e", "no column 'nam' (did you mean 'name'?)"),
        ("methods safre", "did you mean 'safree'?"),
        ("explain digits --method gradcan", "did you mean 'gradcam'?"),
        ("generate shapes --prompt a -o a.png --erase star --method sdl", "did you mean 'sld'?"),
        ("fit X.npy --concept z.npy", "Missing option '-o' / '--output'. (see efface fit --help)"),
        (
            "fit X.npy --concept z.npy -o e --kind classes",
            "'classes' is not one of 'auto', 'categorical', 'continuous'",
        ),
        ("generate shapes --prompt a -o a.png --steps 0", "--steps 0: write at least 1"),
        ("generate shapes --prompt a -o a.png --guidance nan", "--guidance nan: write a number"),
        ("audit X.npy --concept z.npy --seed -1", "--seed -1: write an integer from 0 on"),
        ("explain digits --blur 0", "--blur 0.0: write a number above 0"),
        ("explain digits --method diet --rate inf", "--rate inf: write a number above 0"),
        ("explain digits --method diet --least-agreement 1.5", "--least-agreement 1.5: write a number from 0 to 1"),
        ("fit X.npy --concept z.npy -o e --checkpoint X.npy", "--checkpoint X.npy is a file"),
        ("explain digits --limit 0", "--limit 0: write at least 1"),
        (
            "audit people.csv --concept group --exclude name --keep x0",
            "--exclude is given 2 times, and the last would count: write A,B,..., with commas between",
        ),
        ("fit X.npy --concept z.npy -o e --set affine=no --set affine=yes", "affine is given twice"),
        ("fit X.npy --concept z.npy --output=", "--output DIR is given an empty name: write one"),
        ("fit X.npy --concept z.npy -o e --columns=", "--columns A,B,... is given an empty name"),
        ("fit X.npy --concept z.npy -o e -o f", "--output is given 2 times, and the last would count: give one"),
    ],
)
def test_what_is_mistyped(argv: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(Path().rglob("*"))
    assert message in fails(capsys, *argv.split())
    assert set(Path().rglob("*")) == before


# Options of a method


def test_options_reach_the_fit() -> None:
    x, z = make_data()
    argv = [*FIT, "--set", "shrinkage=false", "--set", "svd_tol=0.5"]
    assert main(argv) == 0
    expected = LeaceFitter.fit(x, z, shrinkage=False, svd_tol=0.5, kind="categorical").eraser
    eraser: Any = efface.load("eraser")
    assert torch.equal(eraser.proj_left, expected.proj_left) and eraser.config == expected.config
    assert eraser.provenance["call"] == "efface " + " ".join(argv)


def test_options_reach_the_fits_of_an_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    argv = ["audit", "X.npy", "--concept", "z.npy", "--force", "-o", "report.json", "--max-rows", "60"]
    texts = []
    for more in ([], ["--set", "shrinkage=false"]):
        assert main([*argv, *more]) == 0
        texts.append(json.loads(Path("report.json").read_text())["findings"])
    assert texts[0] != texts[1]


def test_a_checkpoint_is_of_its_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("efface.core.checkpoint.SECONDS", 0.0)
    argv = [*FIT, "--chunk-rows", "100", "--checkpoint", "state"]
    with monkeypatch.context() as patch:
        patch.setattr("efface.erasers.fitter.Fitter.eraser", property(interrupted))
        patch.setattr("efface.core.checkpoint.Checkpoint.clear", interrupted)
        assert main(argv) == 130
    assert "differs in options" in fails(capsys, *argv, "--set", "shrinkage=false")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "shrinkage"], "'shrinkage' is no option: write name=value"),
        (["--set", "shrinkage=maybe"], "shrinkage='maybe': write True or False"),
        (["--set", "svd_tol=-1"], "svd_tol=-1.0: write a number above 0"),
        (["--set", "kind=categorical"], "write --kind"),
    ],
)
def test_options_that_cannot_be(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(capsys, *FIT, *more)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pipeline")
    build("sd1").save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("method", [method.name for method in efface.methods("pipeline")])
@pytest.mark.filterwarnings("default")
def test_every_method_of_pipelines_draws(pipeline: str, method: str) -> None:
    options = {"seed": "3"} if method == "cgce" else {}
    options |= {name: str(value) for name, value in QUICK.get(method, {}).items()}
    given = [f"--set={name}={value}" for name, value in options.items()]
    words = [
        "--preserve",
        "square",
        "--preserve",
        "star",
        "--preserve",
        "ring",
        "--template",
        "{}",
        "--template",
        "a {}",
    ]
    sampled = ["--prompt", "a red circle", "--seeds", "1", "--steps", "2", "--guidance", "3", "-o", "grid.png"]
    assert main(["generate", pipeline, *sampled, "--erase", "circle", "--method", method, *words, *given]) == 0
    assert Path("grid.png").is_file()


def test_fields_of_the_concept_reach_the_method(pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def erase(view: Any, concept: Any, **options: Any) -> Any:
        found.extend([concept, options])
        raise KeyboardInterrupt

    monkeypatch.setattr(erasing, "erase", erase)
    words = [
        "--synonym",
        "disc",
        "--preserve",
        "ring",
        "--preserve",
        "star",
        "--template",
        "a {}",
        "--anchor",
        "square",
    ]
    words += ["--erase-from", "sign", "--set", "preset=max", "--set", "scale=9"]
    given = ["--prompt", "a", "-o", "a.png", "--erase", "circle", "--method", "sld", *words]
    assert main(["generate", pipeline, *given]) == 130
    fields = {"synonyms": ["disc"], "preserve": ["ring", "star"], "templates": ["a {}"], "anchor": "square"}
    assert found[0] == efface.Concept("circle", **fields, erase_from="sign")
    assert found[1] == {"method": "sld", "preset": "max", "scale": 9.0}


@pytest.mark.parametrize("flag", ["--preserve", "--synonym", "--template", "--anchor", "--erase-from", "--set"])
def test_fields_need_a_concept(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "shapes", "--prompt", "a", "-o", "a.png", flag, "x=y"]
    assert f"{flag} goes with --erase" in fails(capsys, *argv)


# What is there stays


def test_nothing_is_overwritten_unasked(capsys: pytest.CaptureFixture[str], pipeline: str) -> None:
    apply = ["apply", "X.npy", "--eraser", "eraser", "-o", "clean.npy"]
    audit = ["audit", "X.npy", "--concept", "z.npy", "--after", "X.npy", "--max-rows", "60", "-o", "report.md"]
    drawn = ["generate", pipeline, "--prompt", "a", "--seeds", "1", "--steps", "1", "-o", "a.png"]
    for argv in (FIT, apply, audit, drawn):
        assert main(argv) == 0
        kept = Path(argv[-1]) / "model.safetensors" if argv is FIT else Path(argv[-1])
        bytes_, changed = kept.read_bytes(), kept.stat().st_mtime_ns
        assert "write --force" in fails(capsys, *argv)
        assert (kept.read_bytes(), kept.stat().st_mtime_ns) == (bytes_, changed)
        assert main([*argv, "--force"]) == 0 and kept.stat().st_mtime_ns != changed


@pytest.mark.parametrize("output", ["out", "out/report.html"])
def test_reports_in_a_folder_are_not_overwritten(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/report.html").write_text("mine")
    for argv in (["demo", "--out", "out"], ["explain", "digits", "-o", output]):
        assert "out/report.html is there already" in fails(capsys, *argv)
    assert Path("out/report.html").read_text() == "mine"


def test_maps_are_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("maps").mkdir()
    Path("maps/maps.json").write_text("mine")
    assert "--maps maps/maps.json is there already" in fails(capsys, "explain", "digits", "--maps", "maps")


@pytest.mark.parametrize("output", ["X.npy", "./X.npy", "link.npy"])
def test_a_file_is_not_applied_onto_itself(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("link.npy").symlink_to("X.npy")
    assert main(FIT) == 0
    kept = Path("X.npy").read_bytes()
    for more in ([], ["--force"]):
        argv = ["apply", "X.npy", "--eraser", "eraser", "-o", output, *more]
        assert "is a file that is read" in fails(capsys, *argv)
    assert Path("X.npy").read_bytes() == kept


@pytest.mark.parametrize(
    "output", ["eraser/model.safetensors", "eraser/../eraser/model.safetensors", "other.safetensors"]
)
def test_an_eraser_is_not_lost_to_what_it_is_applied_to(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also by another path, or through a folder that is a link."""
    assert main(FIT) == 0
    Path("link").symlink_to("eraser")
    Path("other.safetensors").symlink_to("link/model.safetensors")
    kept = Path("eraser/model.safetensors").read_bytes()
    said = fails(capsys, "apply", "X.npy", "--eraser", "link", "-o", output, "--force")
    assert "is a file of link, which is read" in said and Path("eraser/model.safetensors").read_bytes() == kept


def test_nothing_that_is_read_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    save_file({"X": torch.from_numpy(np.load("X.npy"))}, "data/model.safetensors")
    Path("names.md").write_text("a\nb\n")
    os.link("X.npy", "hard.npy")
    assert main(FIT) == 0
    for argv in (
        ["fit", "data/model.safetensors", "--concept", "z.npy", "-o", "data"],
        ["apply", "X.npy", "--eraser", "eraser", "-o", "hard.npy"],
        ["audit", "X.npy", "--concept", "z.npy", "--eraser", "eraser", "-o", "eraser/config.json"],
        ["explain", "a:b", "X.npy", "--classes", "names.md", "-o", "names.md"],
    ):
        assert "which is read" in (said := fails(capsys, *argv, "--force")) or "a file that is read" in said
    assert Path("names.md").read_text() == "a\nb\n"


# The shell


def completed(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("_EFFACE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("efface ge", ["generate"]),
        ("efface fit --meth", ["--method"]),
        ("efface fit --method o", ["oracle", "orth"]),
        ("efface fit X.npy --kind c", ["categorical", "continuous"]),
        ("efface generate --method s", ["safree", "semantic-surgery", "sld", "speed", "spm"]),
        ("efface explain --method grad", ["gradient", "gradcam", "gradient-shap"]),
        ("efface fit --set sh", ["shrinkage=true", "shrinkage=false"]),
        ("efface fit --method oracle --set a", []),
        ("efface generate --method semantic-surgery --set thr", ["threshold=auto", "threshold="]),
        (
            "efface explain --method qfa --method diet --set bat",
            ["batch_norm=frozen", "batch_norm=train", "batch_size="],
        ),
        ("efface methods proj", ["projection"]),
        ("efface generate ", ["shapes", "emoji"]),
        ("efface erase --method sp", ["speed", "spm"]),
        ("efface erase --method uce --set ri", ["ridge="]),
        ("efface export erasure ", ["shapes", "emoji"]),
        ("efface generate emoji --prompt x -o y ", []),
        ("efface explain di", ["digits"]),
    ],
)
def test_completion(
    line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completed(line, monkeypatch, capsys) == expected


def test_completion_asks_the_registry_where_others_register(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completion, "_FOREIGN", "console_scripts")
    monkeypatch.setattr(completion, "INDEX", Path("nowhere"))
    assert completed("efface fit --method o", monkeypatch, capsys) == ["oracle", "orth"]


@pytest.mark.parametrize(("line", "first"), [("efface fit --set s", "shrinkage=true"), ("efface generate e", "emoji")])
def test_completion_imports_no_torch(line: str, first: str) -> None:
    count = len(line.split(" ")) - 1
    code = (
        "import os, sys\nfrom efface.cli import main\n"
        f"os.environ |= {{'_EFFACE_COMPLETE': 'complete_bash', 'COMP_WORDS': '{line}', 'COMP_CWORD': '{count}'}}\n"
        "try: main([])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, first), done.stderr


def test_without_typer_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    assert "pip install 'efface[cli]'" in fails(capsys, "--help")
