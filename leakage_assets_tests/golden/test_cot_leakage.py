"""The published numbers of cot_leakage against each other, and `leakage reproduce cot_leakage`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from leakage_assets.cli import main
from leakage_assets.studies.cot_leakage.reproduction import (
    ACCURACY,
    CONTRAST_TABLE,
    EXPECTED,
    FIGURES,
    headline_figures,
    reproduce,
)
from leakage_assets.studies.published import ReproductionError
from leakage_assets_tests.golden.conftest import edit

SOURCES = ("software_engineer", "librarian", "comedian", "police_officer")


@pytest.fixture(scope="module")
def table(published: Path) -> pl.DataFrame:
    return reproduce(published)


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    for name in (EXPECTED, CONTRAST_TABLE, ACCURACY):
        shutil.copyfile(published / name, tmp_path / name)
    return tmp_path


def one(table: pl.DataFrame, **where: str) -> dict[str, Any]:
    rows = table.filter(**where)
    assert rows.height == 1
    return rows.row(0, named=True)


def test_everything_comes_out_or_is_a_known_error(table: pl.DataFrame) -> None:
    assert set(table["verdict"]) == {
        "ok",
        "known: E10",
        "known: E12",
        "known: E14",
        "known: section 8",
        "known: section 9",
    }
    assert table.height > 330


def test_macro_is_the_mean_of_the_sources_to_1e_7(table: pl.DataFrame) -> None:
    rows = table.filter(metric="mean of sources")
    assert rows.height == 8 and rows["difference"].abs().max() < 1e-7 and set(rows["tolerance"]) == {1e-7}


def test_holm_and_equivalence_verdicts_follow(table: pl.DataFrame) -> None:
    rejected = table.filter(metric="rejected")
    assert rejected["recomputed"].to_list() == [1.0] * 8 == rejected["published"].to_list()
    verdicts = table.filter(block="TOST", item="H3")
    assert dict(verdicts.select("metric", "recomputed").iter_rows()) == {"within90": 1, "within99": 1, "equivalent": 1}


def test_h1_of_186_comes_out_of_the_accuracies_to_1e_8(table: pl.DataFrame) -> None:
    block = "#186 persona - no_cot @ no_cot"
    published = {  # means in float32
        "software_engineer": 0.005944255739, "librarian": 0.019027303904, "comedian": -0.015301478095,
        "police_officer": 0.087087601423, "macro": 0.024189420743,
    }  # fmt: skip
    for unit, value in published.items():
        assert one(table, block=block, metric=unit)["recomputed"] == pytest.approx(value, abs=1e-8)


def test_like_for_like_contrasts(table: pl.DataFrame) -> None:
    def value(item: str, metric: str) -> float:
        return one(table, block="like for like", item=item, metric=metric)["recomputed"]

    assert value("persona - generic source_loss", "#280") == pytest.approx(0.1914, abs=5e-5)
    assert value("persona - generic source_loss", "#186") == pytest.approx(0.1896, abs=5e-5)
    assert value("persona - generic bystander_leakage", "#280") == pytest.approx(0.1470, abs=5e-5)
    assert value("persona - generic bystander_leakage", "#186") == pytest.approx(0.1467, abs=5e-5)
    assert value("persona - no_cot @ persona_cot bystander_leakage", "#186") == pytest.approx(0.1425, abs=5e-5)
    assert abs(value("contradicting - garbage bystander_leakage", "#280")) < 0.0005
    assert 0.011 < value("persona - generic", "largest gap of a source") < 0.0125


def test_what_the_write_up_compares_with_is_not_that_contrast(table: pl.DataFrame) -> None:
    claim = one(table, block="claims", item="persona - no_cot bystander_leakage")
    assert (claim["published"], claim["verdict"]) == (0.082, "known: section 9")
    constants = table.filter(block="claims", item="persona - generic @ persona_cot bystander_leakage")
    recomputed = dict(constants.select("metric", "recomputed").iter_rows())
    expected = dict(zip((*SOURCES, "macro"), (0.124, 0.208, 0.051, 0.203, 0.147), strict=True))
    assert recomputed == pytest.approx(expected, abs=5e-4)


Tree = dict[str, Any]


def tampered(folder: Path, change: Callable[[Tree], None]) -> Path:
    tree = json.loads((folder / EXPECTED).read_text())
    change(tree)
    (folder / EXPECTED).write_text(json.dumps(tree))
    return folder


def put(value: object, *path: str | int) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        place: Any = tree
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "block", "metric"),
    [
        (put(0.0203, "contrasts", 0, "macro", "point"), "generic - garbage source_loss", "mean of sources"),
        (
            put(0.004, "contrasts", 3, "macro", "p_uncorrected"),
            "generic - scrambled_english bystander_leakage",
            "p_holm",
        ),
        (put(0.02, "contrasts", 5, "macro", "p_uncorrected"), "persona - garbage bystander_leakage", "rejected"),
        (put(-0.031, "tost_h3", "ci90", 0), "TOST", "equivalent"),
        (put(0.051, "tost_h3", "ci99", 1), "TOST", "within99"),
        (put(0.04, "tost_h3", "bound90"), "TOST", "margin"),
        (put(0.05, "holm_alpha"), "Holm", "alpha"),
        (put(1_170, "n_questions"), "design", "n_pairs"),
        (put(0.2, "single_arm_losses", 0, "per_source", "comedian", "source_loss"), "derived level", "source_loss"),
    ],
)
def test_a_number_that_does_not_fit_the_others_is_found(
    folder: Path, change: Callable[[Tree], None], block: str, metric: str
) -> None:
    wrong = reproduce(tampered(folder, change)).filter(verdict="DIFFERS")
    assert (block, metric) in set(wrong.select("block", "metric").iter_rows())


def test_an_accuracy_that_is_not_its_count_is_found(folder: Path) -> None:
    changed = edit(folder, ACCURACY, lambda t: t.with_columns(pl.col("accuracy") + 1e-9))
    wrong = reproduce(changed).filter(verdict="DIFFERS")
    assert wrong["metric"].to_list() == ["largest gap of accuracy from its count"]
    edit(
        folder,
        ACCURACY,
        lambda t: t.with_columns(
            n_correct=pl.when(pl.col("train_arm") == "persona_cot").then(pl.col("n_correct") - 1).otherwise("n_correct")
        ),
    )
    assert "#186 persona - no_cot @ no_cot" in set(reproduce(folder).filter(verdict="DIFFERS")["block"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree.pop("tost_h3"), "KeyError 'tost_h3'"),
        (lambda tree: tree["contrasts"].pop(), "contrasts [("),
        (lambda tree: tree["contrasts"][0]["macro"].pop("point"), "no contrasts/0/macro/point"),
        (put("much", "contrasts", 0, "macro", "point"), "contrasts/0/macro/point is 'much', not a number"),
        (lambda tree: tree["contrasts"][0]["per_source"].pop("comedian"), "no contrasts/0/per_source/comedian"),
    ],
)
def test_a_broken_aggregate_is_named(folder: Path, change: Callable[[Tree], None], words: str) -> None:
    with pytest.raises(ReproductionError, match=re.escape(words)):
        reproduce(tampered(folder, change))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (CONTRAST_TABLE, lambda t: t[1:], "39 rows for 39 of 40 entries"),
        (CONTRAST_TABLE, lambda t: t.drop("point"), "no column 'point'"),
        (ACCURACY, lambda t: pl.concat([t, t[:1]]), "an entry occurs twice"),
        (ACCURACY, lambda t: t.filter(pl.col("seed") != 42), "no software_engineer / generic_cot / 42"),
    ],
)
def test_a_broken_table_is_named(folder: Path, name: str, change, words: str) -> None:
    with pytest.raises(ReproductionError, match=re.escape(words)):
        reproduce(edit(folder, name, change))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReproductionError, match="no such folder"):
        reproduce(tmp_path / "nowhere")
    (tmp_path / EXPECTED).write_text("{")
    with pytest.raises(ReproductionError, match="JSONDecodeError"):
        reproduce(tmp_path)


@pytest.mark.parametrize(("broken", "code"), [(False, 0), (True, 1)])
def test_the_command(
    folder: Path, broken: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if broken:
        tampered(folder, put(0.0203, "contrasts", 0, "macro", "point"))
    monkeypatch.setattr(sys, "argv", ["leakage", "reproduce", "cot_leakage", "--published", str(folder)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert int(exit_.value.code or 0) == code
    out = capsys.readouterr().out
    assert "known: E14" in out and out.splitlines()[-1].endswith(" 0 not reproduced") is not broken


def test_every_typed_in_figure_is_there_once_and_every_claim_names_its_place() -> None:
    """Needs no published table, so it always runs."""
    figures = headline_figures().figures
    assert len({figure.key for figure in figures}) == len(figures) > 100
    claims = [figure for figure in figures if figure.block == "claims"]
    assert {figure.known.by for figure in claims if figure.known} == {"E10", "E12", "E14", "section 9"}
    assert all(figure.known for figure in claims)
    values = {figure.key: figure.value for figure in figures}
    for (block, item, metric), value in values.items():
        if metric == "macro" and "-" in block and not block.startswith("#"):
            mean = sum(values[block, item, source] for source in SOURCES) / 4
            assert mean == pytest.approx(value, abs=1.01e-4)
    assert values["design", "macro", "n_pairs"] == 4 * values["design", "one source", "n_pairs"]


def test_a_fault_in_the_typed_in_figures_is_named(tmp_path: Path) -> None:
    content = json.loads(FIGURES.read_text(encoding="utf-8"))
    content["figures"][0]["value"] = "many"
    broken = tmp_path / "cot_leakage.json"
    broken.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ReproductionError, match=r"figures\.0\.value"):
        headline_figures(broken)
