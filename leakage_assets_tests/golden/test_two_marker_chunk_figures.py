"""The typed-in figures of two_marker_chunk agree with each other, without the published tables."""

from __future__ import annotations

from leakage_assets.studies.two_marker_chunk.design import NEGLIGIBLE
from leakage_assets.studies.two_marker_chunk.gates import GateLimits, GateValues, gates, tally
from leakage_assets.studies.two_marker_chunk.reproduction import headline_figures

FIGURES = headline_figures().figures
VALUES = {(f.block, f.item, f.metric): f.known.value if f.known else f.value for f in FIGURES}


def test_every_figure_stands_once_and_corrections_correct() -> None:
    assert len(VALUES) == len(FIGURES)
    assert all(abs(f.value - f.known.value) > f.precision / 2 for f in FIGURES if f.known)


def test_percentages_are_counts_of_260() -> None:
    """Section 10: all are consistent with whole numbers."""
    rates = [f for f in FIGURES if f.block == "rates" and f.metric in ("r_a_pct", "r_b_pct")]
    assert len(rates) == 8
    for figure in rates:
        count = round(figure.value * 260 / 100)
        assert abs(100 * count / 260 - figure.value) <= figure.precision / 2 + 1e-9


def test_differences_follow_from_their_rates() -> None:
    for pair, persona in (("pair1", "assistant"), ("pair2", "software_engineer")):
        trained, control = (VALUES["rates", f"{pair} {arm} {persona}", "r_b_given_a_pct"] for arm in "TC")
        assert abs(VALUES["delta", pair, "delta_pp"] - (trained - control)) < 0.1
        assert VALUES["delta", pair, "negligible"] == (abs(trained - control) <= 100 * NEGLIGIBLE)


def test_the_tallies_follow_from_the_printed_rates() -> None:
    """The written list has the lower bounds 80.7 and 71.2 (section 7.1); the last two gates pass for both pairs."""
    printed = {"pair1": ("villain", "assistant", 80.7), "pair2": ("librarian", "software_engineer", 71.2)}
    for pair, (donor, recipient, low) in printed.items():
        values = GateValues(
            donor_a=VALUES["rates", f"{pair} T {donor}", "r_a_pct"] / 100,
            donor_b=VALUES["rates", f"{pair} T {donor}", "r_b_pct"] / 100,
            donor_b_given_a=VALUES["rates", f"{pair} T {donor}", "r_b_given_a_pct"] / 100,
            donor_low=low / 100,
            recipient_a=VALUES["rates", f"{pair} T {recipient}", "r_a_pct"] / 100,
            recipient_b_in_c=0.0,
            largest_b_in_c=0.0,
            recipient_with_a=79,
            recipient_with_a_in_c=80,
        )
        for which in ("write-up", "code"):
            assert tally(gates(values, GateLimits()), which).failed == VALUES["gates", pair, f"failed_of_{which}"]


def test_sizes_multiply() -> None:
    design = {(item, metric): value for (block, item, metric), value in VALUES.items() if block == "design"}
    assert design["each adapter", "completions"] == 11 * design["each persona", "completions"]
    assert design["#261", "completions"] == design["#261", "adapters"] * design["each adapter", "completions"]
    assert design["#369", "completions of a persona"] == 3 * design["each persona", "completions"]
    assert design["each adapter", "steps"] == 3 * design["each adapter", "rows"] / 16
