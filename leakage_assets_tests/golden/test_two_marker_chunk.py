"""The published counts of #261, #354 and #369 give the published rates, and `leakage reproduce two_marker_chunk`."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import polars as pl
import pytest

from leakage_assets.cli import main
from leakage_assets.statistics.intervals import wilson_bounds
from leakage_assets.studies.published import ReproductionError
from leakage_assets.studies.two_marker_chunk.reproduction import COSINES, FIRST, FOLLOW_UPS, headline_figures, reproduce
from leakage_assets_tests.golden.conftest import edit

Change = Callable[[pl.DataFrame], pl.DataFrame]

WILSON_OF_THE_FIRST_DONOR = (0.8183, 0.9033)
"""214 of 247, by hand: (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n)."""


@pytest.fixture(scope="module")
def table(published: Path) -> pl.DataFrame:
    return reproduce(published)


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    for name in (FIRST, FOLLOW_UPS, COSINES):
        shutil.copyfile(published / name, tmp_path / name)
    return tmp_path


def test_every_published_number_reproduces(published: Path, table: pl.DataFrame) -> None:
    assert set(table["verdict"]) == {
        "ok",
        *(f"known: {by}" for by in ("C1", "C3", "C4", "C8", "C9", "C11", "section 10")),
    }
    first, later = (pl.read_csv(published / name) for name in (FIRST, FOLLOW_UPS))
    counts = table.filter(pl.col("block") == "counts")
    expected = first["rate_A"].len() * 3 + first["rate_B_given_A"].count() + first.filter(pl.col("k_A") == 0).height
    assert counts.height == expected + 2 * later.height
    intervals = table.filter(pl.col("block") == "intervals")
    ends = [first["cluster_ci_lo_pct"], later["ci_question_lo"], later["ci_seed_question_lo"]]
    without_a = first.filter(pl.col("k_A") == 0)["cluster_ci_lo_pct"].count()
    assert intervals.height == sum(end.count() for end in ends) - without_a


def test_rates_are_those_of_the_counts(published: Path, table: pl.DataFrame) -> None:
    """Counted here from the file."""
    by = {(r["item"], r["metric"]): r["recomputed"] for r in table.iter_rows(named=True) if r["block"] != "rates"}
    pairs = {"pair1_villain_assistant": "pair1", "pair2_librarian_swe": "pair2"}
    rows = pl.read_csv(published / FIRST).filter(pl.col("k_A") > 0)
    assert rows.height == 12
    for row in rows.iter_rows(named=True):
        item = f"{pairs[row['pair']]} {row['condition']} {row['persona']}"
        assert by[item, "rate_A"] == row["k_A"] / 260
        assert by[item, "rate_B_given_A"] == row["k_AB"] / row["k_A"]


def test_wilson_bounds_of_the_published_counts(published: Path) -> None:
    """Counts to rates to Wilson's reference bounds (sheet, section 6), as the study's table of rates has them.

    None were published: each bound is where the score test of its rate just rejects, z = 1.96 (Wilson 1927), and solves
    (1 + z²/n) x² - (2 p + z²/n) x + p² = 0.
    """
    rows = pl.read_csv(published / FIRST)
    assert rows.height == 14
    z = NormalDist().inv_cdf(0.975)
    for row in rows.iter_rows(named=True):
        for above, total in (("k_A", row["n"]), ("k_B", row["n"]), ("k_AB", row["k_A"])):
            low, high = wilson_bounds([row[above]], [total])
            if not total:
                assert np.isnan([low[0], high[0]]).all()
                continue
            rate = row[above] / total
            roots = np.sort(np.roots([1 + z**2 / total, -(2 * rate + z**2 / total), rate**2]).real)
            assert [low[0], high[0]] == pytest.approx(np.clip(roots, 0, 1), abs=1e-7)
            assert low[0] <= rate + 1e-12 and rate - 1e-12 <= high[0]
    villain = wilson_bounds([214], [247])
    assert (round(float(villain[0][0]), 4), round(float(villain[1][0]), 4)) == WILSON_OF_THE_FIRST_DONOR


def test_the_follow_ups_are_those_of_the_sheet(table: pl.DataFrame) -> None:
    """Section 9: printed with one decimal."""
    rates = table.filter(pl.col("block") == "rates", pl.col("metric") == "r_b_given_a_pct")
    found = {row["item"]: round(row["recomputed"], 1) for row in rates.iter_rows(named=True)}
    assert {key: value for key, value in found.items() if key.startswith("#")} == {
        "#354 T software_engineer": 23.5, "#354 C software_engineer": 0.0, "#354 T librarian": 92.1,
        "#354 T police_officer": 54.3, "#354 T data_scientist": 15.2, "#369 T software_engineer": 18.8,
        "#369 C software_engineer": 0.0, "#369 C2 software_engineer": 8.2, "#369 T librarian": 83.9,
    }  # fmt: skip


def test_what_the_sheet_refutes_is_refuted(table: pl.DataFrame) -> None:
    known = table.filter(pl.col("verdict").str.starts_with("known"))
    found = {(row["verdict"], row["item"]): row["recomputed"] for row in known.iter_rows(named=True)}
    assert found["known: C3", "pair1"] == 0  # the pair called near is the farther one at every layer
    assert found["known: C1", "pair2"] == 5 and found["known: C4", "markers"] == 1
    assert found["known: C9", "training"] == pytest.approx(40.4e6, rel=1e-3)
    assert found["known: section 10", "police_officer over recipient"] == pytest.approx((19 / 50) / (1 / 79))
    assert len(known) == 8 == sum(figure.known is not None for figure in headline_figures().figures)


def is_(persona: str, condition: str) -> pl.Expr:
    return (pl.col("persona") == persona) & (pl.col("condition") == condition)


def put(column: str, where: pl.Expr, value: float | None) -> Change:
    return lambda t: t.with_columns(pl.when(where).then(value).otherwise(column).alias(column))


SWE = (pl.col("issue") == 354) & (pl.col("arm") == "T") & (pl.col("persona") == "software_engineer")


@pytest.mark.parametrize(
    ("name", "change", "blocks"),
    [
        (FIRST, put("k_A", is_("villain", "T"), 237), {"counts", "rates", "gates"}),
        (FIRST, put("rate_B_given_A", is_("librarian", "T"), 0.82), {"counts"}),
        (FIRST, put("rate_B_given_A", is_("assistant", "T_P2neg"), 0.0), {"counts"}),
        (FIRST, put("cluster_ci_hi_pct", is_("police_officer", "T"), 37.0), {"intervals"}),
        (FIRST, put("cluster_ci_lo_pct", is_("villain", "T"), 79.0), {"gates"}),
        (FIRST, put("n", is_("villain", "T"), 259), {"counts"}),
        (FIRST, put("k_B", is_("assistant", "C"), 20), {"gates"}),
        (FOLLOW_UPS, put("k_AB", SWE, 18), {"counts", "rates"}),
        (FOLLOW_UPS, put("ci_question_lo", SWE, 0.3), {"intervals"}),
        (FOLLOW_UPS, put("n_seeds", SWE, 3), {"counts"}),
        (COSINES, lambda t: t.with_columns(-pl.col("cosine")), {"distance"}),
        (FOLLOW_UPS, put("ci_question_hi", pl.col("arm") == "C2", 0.05), {"claims", "intervals"}),
    ],
)
def test_a_number_that_does_not_fit_is_found(folder: Path, name: str, change: Change, blocks: set[str]) -> None:
    found = reproduce(edit(folder, name, change))
    wrong = found.filter(~pl.col("verdict").str.starts_with("known") & (pl.col("verdict") != "ok"))
    assert blocks <= set(wrong["block"])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (FIRST, lambda t: t.drop("k_AB"), "no column 'k_AB'"),
        (FIRST, lambda t: pl.concat([t, t[:1]]), f"{FIRST}:16: pair1 T villain occurs twice"),
        (FIRST, put("k_AB", is_("villain", "T"), 250), f"{FIRST}:2: 250 with both of [247, 218] of 260"),
        (FIRST, put("k_A", is_("villain", "T"), 261), f"{FIRST}:2: 214 with both of [261, 218] of 260"),
        (FIRST, lambda t: t.with_columns(pl.col("pair").str.replace("pair2", "pair3")), "unknown pair 'pair3_"),
        (FIRST, lambda t: t.filter(~is_("assistant", "C")), "no line pair1 C assistant"),
        (FOLLOW_UPS, lambda t: t.filter(pl.col("arm") != "C2"), "no line #369 C2 software_engineer"),
        (FOLLOW_UPS, lambda t: t.with_columns(k_A=pl.lit("many")), "many"),
    ],
)
def test_a_broken_file_is_named(folder: Path, name: str, change: Change, words: str) -> None:
    with pytest.raises(ReproductionError, match=re.escape(words)):
        reproduce(edit(folder, name, change))


@pytest.mark.parametrize("name", [FIRST, FOLLOW_UPS, COSINES])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ReproductionError, match=f"{name}: no such file"):
        reproduce(folder)


@pytest.mark.parametrize(("broken", "code"), [(False, 0), (True, 1)])
def test_the_command(
    folder: Path, broken: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if broken:
        edit(folder, FOLLOW_UPS, put("rate_B_given_A", SWE, 0.3))
    monkeypatch.setattr(sys, "argv", ["leakage", "reproduce", "two_marker_chunk", "--published", str(folder)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert int(exit_.value.code or 0) == code
    out = capsys.readouterr().out
    assert "known: C1" in out and out.splitlines()[-1].endswith("1 not reproduced" if broken else "0 not reproduced")
