"""The published numbers of #271 and #232 come out of the functions that analyse a live run."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.cli import main
from leakage_assets.studies.published import ReproductionError
from leakage_assets.studies.source_rate import reproduction
from leakage_assets.studies.source_rate.reproduction import COLUMNS, EXPECTED, RATES, headline_figures, reproduce
from leakage_assets_tests.golden.conftest import edit


@pytest.fixture
def source_rate_copy(published: Path, tmp_path: Path) -> Path:
    """A copy of the published files of source_rate, to change."""
    for name in (RATES, EXPECTED):
        shutil.copyfile(published / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def table(published: Path) -> pl.DataFrame:
    return reproduce(published)


def rewrite(folder: Path, change: Callable[[dict], None]) -> Path:
    """Change the expected file of the copy."""
    path = folder / EXPECTED
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def leaves(node: object) -> int:
    """Numbers and truth values below a JSON node."""
    if isinstance(node, dict):
        return sum(map(leaves, node.values()))
    if isinstance(node, list):
        return sum(map(leaves, node))
    return not isinstance(node, str)


def test_every_published_statistic_reproduces_to_1e_9(published: Path, table: pl.DataFrame) -> None:
    wrong = table.filter(~pl.col("verdict").str.starts_with("ok") & ~pl.col("verdict").str.starts_with("known"))
    assert wrong.is_empty(), str(wrong)
    expected = json.loads((published / EXPECTED).read_text())
    assert len(table) == 12 * 3 + leaves(expected) + len(headline_figures().figures)
    from_files = table.head(12 * 3 + leaves(expected))
    assert from_files["tolerance"].is_in([0.0, 1e-9]).all()


def test_only_what_the_sheet_refutes_is_refuted(table: pl.DataFrame) -> None:
    known = table.filter(pl.col("verdict").str.starts_with("known"))
    assert known.select("item", "metric", "published", "verdict").rows() == [
        ("all", "loo_drops_stated_in_seed", 5, "known: section 9"),
        ("software_engineer", "wilson_lo_pct", 23.6, "known: section 9"),
        ("software_engineer", "wilson_hi_pct", 41.6, "known: section 9"),
        ("kindergarten_teacher", "wilson_lo_pct", 24.3, "known: section 9"),
        ("kindergarten_teacher", "wilson_hi_pct", 42.8, "known: section 9"),
        ("occupational", "spearman_rho", 0.09, "known: section 9"),
        ("character", "spearman_rho", 0.55, "known: section 9"),
        ("helpful_assistant", "tokens", 5, "known: D2"),
        ("qwen_default", "tokens", 11, "known: D2"),
        ("Bonferroni-adjusted Spearman", "layers_below_0p01", 4, "known: D3"),
        ("Pearson", "layers_below_0p05", 4, "known: D4"),
    ]


def test_the_command_prints_all_of_it_and_names_the_differences(published: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["leakage", "reproduce", "source_rate", "--published", str(published)])
    with pytest.raises(SystemExit) as exit_:
        main()
    out = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "Not reproduced" not in out
    assert "known: D2" in out.split("Known errors of the write-up", 1)[1]
    assert out.splitlines()[-1].endswith("11 known errors of the write-up, 0 not reproduced")


def test_reproduction_takes_less_than_two_seconds(published: Path, table: pl.DataFrame) -> None:
    assert len(table)  # imports are paid
    start = time.process_time()
    reproduce(published)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda t: t.with_columns(cos_l20=pl.col("cos_l20") + 1e-6 * pl.col("k")), {"layer_stats", "n10_l20", "loo"}),
        (lambda t: t.with_columns(k=pl.col("k") + 1), {"rates"}),
        (lambda t: t.with_columns(rate=1 - pl.col("rate")), {"layer_stats", "drop_librarian", "parent_232_l10"}),
        (lambda t: t.with_columns(prompt_tokens=pl.col("prompt_tokens") + pl.col("k")), {"length_partial"}),
        (lambda t: t.with_columns(wilson_lo=pl.col("wilson_lo") + 1e-8), {"rates"}),
    ],
)
def test_changed_data_are_noticed(source_rate_copy: Path, change, where: set[str]) -> None:
    differs = reproduce(edit(source_rate_copy, RATES, change)).filter(pl.col("verdict") == "DIFFERS")
    assert where <= set(differs["block"])


def test_a_changed_expectation_is_noticed(source_rate_copy: Path) -> None:
    def change(content: dict) -> None:
        content["cooks_d"]["librarian"] += 1e-8
        content["pi_l20"]["qwen_default"]["inside"] = False
        content["loo"]["published"]["passes"] = 11

    differs = reproduce(rewrite(source_rate_copy, change)).filter(pl.col("verdict") == "DIFFERS")
    assert differs.select("block", "metric").rows() == [
        ("pi_l20", "inside"),
        ("loo", "passes"),
        ("cooks_d", "librarian"),
    ]


def test_silent_data_are_undefined_not_nan(source_rate_copy: Path) -> None:
    silent = reproduce(edit(source_rate_copy, RATES, lambda t: t.with_columns(k=0, rate=0.0)))
    assert not silent["recomputed"].is_nan().any()
    stats = silent.filter(pl.col("block").is_in(["layer_stats", "drop_librarian", "bonferroni_x4"]))
    assert set(stats.filter(pl.col("metric") != "n")["verdict"]) == {"undefined"}


@pytest.mark.parametrize("name", [RATES, EXPECTED])
def test_a_missing_file_is_named(source_rate_copy: Path, name: str) -> None:
    (source_rate_copy / name).unlink()
    with pytest.raises(ReproductionError, match=rf"{name}: no such file; give the folder .* i271_\* files"):
        reproduce(source_rate_copy)


@pytest.mark.parametrize("column", list(COLUMNS))
def test_a_missing_column_is_named(source_rate_copy: Path, column: str) -> None:
    with pytest.raises(ReproductionError, match=rf"{RATES}: no column '{column}'"):
        reproduce(edit(source_rate_copy, RATES, lambda t: t.drop(column)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(kendall={"tau": 0.1}), r"kendall/tau is in the file, but nothing recomputes it"),
        (lambda c: c.pop("leverage"), r"leverage/\w+ is not in the file"),
    ],
)
def test_an_expected_file_with_other_entries_is_refused(source_rate_copy: Path, change, message: str) -> None:
    with pytest.raises(ReproductionError, match=message):
        reproduce(rewrite(source_rate_copy, change))


@pytest.mark.parametrize(("text", "message"), [("{", "no JSON"), ("[1]", "expected an object")])
def test_a_damaged_expected_file_is_refused(source_rate_copy: Path, text: str, message: str) -> None:
    (source_rate_copy / EXPECTED).write_text(text)
    with pytest.raises(ReproductionError, match=rf"{EXPECTED}: .*{message}"):
        reproduce(source_rate_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.with_columns(cos_l10=pl.lit("near")), "near"),
        (lambda t: pl.concat([t, t.head(1)]), "occurs twice"),
        (lambda t: t.with_columns(k=pl.lit(101)), "between 0 and its trials"),
    ],
)
def test_damaged_rates_are_refused(source_rate_copy: Path, change, message: str) -> None:
    with pytest.raises(ReproductionError, match=rf"{RATES}: .*{message}"):
        reproduce(edit(source_rate_copy, RATES, change))


def test_the_parent_needs_its_own_cosines(published: Path, monkeypatch) -> None:
    without = headline_figures().model_copy(update={"inputs": {}})
    monkeypatch.setattr(reproduction, "headline_figures", lambda: without)
    with pytest.raises(ReproductionError, match=r"inputs\.cosine_l10_of_232: no 'software_engineer'"):
        reproduce(published)
