"""Reading committed results, and the table that compares them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leakage_assets.paths import README
from leakage_assets.planning.hardware import HARDWARE
from leakage_assets.planning.ledger import BOUNDS, RESULTS, Bound, LedgerError, read_bounds, read_ledger
from leakage_assets.planning.ledger_table import (
    BEGIN,
    COLUMNS,
    END,
    NOT_MEASURED,
    ledger_rows,
    markdown_table,
    with_table,
)
from leakage_assets_tests.planning.results import write_result

H200, H100 = HARDWARE["h200"], HARDWARE["h100"]
FIGURES_OF_THE_ISSUE = {
    "train_tokens_per_s",
    "train_tokens_per_s_as_published",
    "train_14_adapters_s",
    "generate_base_tokens_per_s",
    "generate_one_adapter_tokens_per_s",
    "generate_14_adapters_tokens_per_s",
    "generate_100800_s",
    "dagster_207_s",
    "centroids_s",
}


def test_a_result_is_found_by_figure_and_hardware(tmp_path: Path) -> None:
    write_result(tmp_path, "train", figures={"train_tokens_per_s": 14_000, "table": [[1, 2]]})
    write_result(tmp_path, "laptop", hardware={"gpu": None, "cpu": "a laptop"}, figures={"train_tokens_per_s": 20})
    ledger = read_ledger(tmp_path)
    assert [result.name for result in ledger.results] == ["laptop", "train"]
    assert ledger.on("train_tokens_per_s", H200) == (14_000.0, ledger.results[1])
    assert ledger.on("train_tokens_per_s", H100) is None
    assert ledger.on("centroids_s", H200) is None
    assert [value for value, _ in ledger.of("train_tokens_per_s")] == [20.0, 14_000.0]


def test_hardware_may_be_recorded_by_part(tmp_path: Path) -> None:
    write_result(tmp_path, "train", hardware={"gpu": "NVIDIA H200", "cores": 16}, figures={"centroids_s": 4.0})
    ledger = read_ledger(tmp_path)
    assert ledger.on("centroids_s", H200) is not None
    assert ledger.results[0].hardware_text == "NVIDIA H200"


def test_no_results_are_an_empty_ledger(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "nowhere").results == ()


@pytest.mark.parametrize("field", ["name", "command", "commit", "hardware", "versions", "random_weights", "figures"])
def test_a_result_without_a_field_is_refused(field: str, tmp_path: Path) -> None:
    path = write_result(tmp_path, **{field: None})
    with pytest.raises(LedgerError, match=rf"{path.name}: {field}: Field required"):
        read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"shape": "tiny"}, "shape: Unexpected"),
        ({"random_weights": "yes"}, "random_weights: Input should be a valid boolean"),
        ({"commit": 7}, "commit: Input should be a valid string"),
    ],
)
def test_a_result_with_other_fields_or_types_is_refused(changes: dict[str, object], place: str, tmp_path: Path) -> None:
    write_result(tmp_path, **changes)
    with pytest.raises(LedgerError, match=place):
        read_ledger(tmp_path)


def test_files_that_are_not_what_they_say_are_refused(tmp_path: Path) -> None:
    write_result(tmp_path, "train").rename(tmp_path / "centroids.json")
    with pytest.raises(LedgerError, match=r"centroids\.json: holds the result 'train'; rename"):
        read_ledger(tmp_path)
    (tmp_path / "centroids.json").write_text("{")
    with pytest.raises(LedgerError, match=r"centroids\.json: the whole: Invalid JSON"):
        read_ledger(tmp_path)


def test_a_figure_in_two_results_and_one_that_is_no_number_are_refused(tmp_path: Path) -> None:
    write_result(tmp_path, "one", figures={"centroids_s": 4.0, "dagster_207_s": "long"})
    write_result(tmp_path, "two", figures={"centroids_s": 5.0})
    ledger = read_ledger(tmp_path)
    with pytest.raises(LedgerError, match="centroids_s on NVIDIA H200 is in several results: one, two"):
        ledger.on("centroids_s", H200)
    with pytest.raises(LedgerError, match="result one: figure dagster_207_s is 'long'; expected a number"):
        ledger.of("dagster_207_s")


def test_the_bounds_name_the_figures_of_the_ledger() -> None:
    bounds = read_bounds()
    assert {bound.name for bound in bounds} == FIGURES_OF_THE_ISSUE
    for bound in bounds:
        assert bound.better == ("lower" if bound.name.endswith("_s") and "per_s" not in bound.name else "higher")
        assert not bound.target or bound.bound < bound.stretch < bound.target
    assert "Origin." in BOUNDS.read_text()


def test_bounds_with_other_fields_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bounds.yaml"
    path.write_text("figures:\n  - {name: a, what: b, better: faster, bound: 1}\n")
    with pytest.raises(LedgerError, match=r"bounds\.yaml: 0\.better: Input should be 'lower' or 'higher'"):
        read_bounds(path)
    with pytest.raises(LedgerError, match=r"nowhere\.yaml: unreadable"):
        read_bounds(tmp_path / "nowhere.yaml")


def test_the_share_of_the_limit_is_one_at_the_bound_and_less_below() -> None:
    time, rate = Bound("t_s", "", "lower", 100), Bound("r", "", "higher", 100)
    assert (time.share(100), rate.share(100)) == (1.0, 1.0)
    assert (time.share(200), rate.share(50)) == (0.5, 0.5)


def test_every_figure_has_a_row_measured_or_not(tmp_path: Path) -> None:
    write_result(tmp_path, "centroids", figures={"centroids_s": 4.0})
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in ledger_rows(read_bounds(), read_ledger(tmp_path))}
    assert rows.keys() == FIGURES_OF_THE_ISSUE
    assert rows["centroids_s"] | {"what": ""} == {
        "figure": "centroids_s",
        "what": "",
        "measured": "4.0",
        "published": "about 600 (10 min)",
        "bound": "2.0",
        "share of limit": "50%",
        "hardware": "NVIDIA H200, 16 CPU cores",
        "weights": "random",
        "commit": "aaaaaaaaa",
    }
    others = [row for name, row in rows.items() if name != "centroids_s"]
    assert {row["measured"] for row in others} == {NOT_MEASURED}
    assert {row["hardware"] for row in others} == {"–"}


def test_the_table_replaces_what_stood_between_the_markers(tmp_path: Path) -> None:
    table = markdown_table(read_bounds(), read_ledger(tmp_path))
    assert table.count("\n") == 1 + len(read_bounds())
    readme = f"# Title\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"
    written = with_table(readme, table)
    assert written == f"# Title\n\n{BEGIN}\n\n{table}\n\n{END}\n\nAfter.\n"
    assert with_table(written, table) == written


@pytest.mark.parametrize("readme", ["nothing", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_its_markers_is_refused(readme: str) -> None:
    with pytest.raises(LedgerError, match=r"README\.md: expected one line"):
        with_table(readme, "table")


def test_the_readme_holds_the_committed_results() -> None:
    """Mend with `leakage bench --write-readme`."""
    readme = README.read_text()
    assert with_table(readme, markdown_table(read_bounds(), read_ledger())) == readme


def test_committed_results_are_readable_and_name_a_commit() -> None:
    for result in read_ledger().results:
        assert len(result.commit) >= 40, result.name
        assert result.command.startswith("python -m benchmarks."), result.name
        path = RESULTS / f"{result.name}.json"
        assert json.loads(path.read_text())["figures"] == result.figures
