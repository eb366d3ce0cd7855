"""`leakage reproduce`: the whole table, and exit code 1 for a figure that does not come out, whatever the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.cli import main
from leakage_assets.studies.registry import known_errors
from leakage_assets_tests.golden.conftest import edit


@pytest.fixture
def reproduced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], tuple]:
    """Exit code and standard output of the command on a folder."""

    def command(folder: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["leakage", "reproduce", "marker_leakage", "--published", str(folder)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), capsys.readouterr().out

    return command


def test_the_published_tables_reproduce_and_are_all_printed(published: Path, reproduced) -> None:
    code, out = reproduced(published)
    assert code == 0
    for column in ("published", "recomputed", "difference", "verdict"):
        assert column in out.splitlines()[2]
    for layer in (10, 15, 20, 25):
        assert f"pooled L{layer}" in out and f"kindergarten_teacher L{layer}" in out
    assert "Not reproduced" not in out
    assert out.splitlines()[-1].endswith("2 known errors of the write-up, 0 not reproduced")


def test_known_errors_of_the_write_up_are_named(published: Path, reproduced) -> None:
    _, out = reproduced(published)
    _, known = out.split("Known errors of the write-up", 1)
    assert "known: A4" in known and "known: A3" in known
    for code in ("A3", "A4"):
        assert f"{code}: {known_errors('marker_leakage')[code]}" in known.splitlines()
    assert "number entries of the study's protocol sheet" in known
    assert "111,000" in known and "22,200" in known


@pytest.mark.parametrize(
    ("name", "change", "verdict"),
    [
        ("i66_cosines.csv", lambda t: t.with_columns(cosine=pl.lit(0.5)), "undefined"),
        ("i66_marker_rates.csv", lambda t: t.with_columns(found=pl.lit(0), rate=pl.lit(0.0)), "undefined"),
        ("i66_cosines.csv", lambda t: t.with_columns(cosine=-pl.col("cosine")), "DIFFERS"),
        ("i66_correlations.csv", lambda t: t.with_columns(pl.col("pearson_r") + 0.001), "DIFFERS"),
    ],
)
def test_tampered_tables_give_exit_code_1(copy: Path, name: str, change, verdict: str, reproduced) -> None:
    code, out = reproduced(edit(copy, name, change))
    assert code == 1
    _, wrong = out.split("Not reproduced", 1)
    assert verdict in wrong and "│ ok" not in wrong and "known: " not in wrong
    assert not out.splitlines()[-1].endswith(" 0 not reproduced")


def test_a_known_error_with_another_value_is_wrong(copy: Path, reproduced) -> None:
    # With the layers swapped, L10 would be best: neither the write-up's 20 nor the 25 that its data give.
    swap = {10: 25, 25: 10}
    code, out = reproduced(edit(copy, "i66_cosines.csv", lambda t: t.with_columns(pl.col("layer").replace(swap))))
    assert code == 1
    _, wrong = out.split("Not reproduced", 1)
    assert "best_layer" in wrong
