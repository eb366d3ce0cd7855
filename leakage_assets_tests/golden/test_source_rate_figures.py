"""The typed-in figures of source_rate agree with each other and with our statistics, without the published tables."""

from __future__ import annotations

import numpy as np
import pytest

from leakage_assets.statistics.correlation import asymptotic_p
from leakage_assets.statistics.points import as_points, correlate_points, count_above, drop_one
from leakage_assets.statistics.regression import check_predictions, fit_line, influence
from leakage_assets.studies.source_rate.design import FITTED, INFORMATIVE_HALF_WIDTH, SOURCES
from leakage_assets.studies.source_rate.reproduction import PARENT, REFERENCE, VENDOR_DEFAULT, headline_figures

HEADLINE = headline_figures()
VALUES = {(f.block, f.item, f.metric): f.known.value if f.known else f.value for f in HEADLINE.figures}
PUBLISHED = {"assistant": REFERENCE, "vendor_default_qwen": VENDOR_DEFAULT}
NAMES = [PUBLISHED.get(name, name) for name in SOURCES]
RATES = {name: VALUES["sources", name, "rate_pct"] / 100 for name in NAMES}
PRINTED = as_points(NAMES, [VALUES["sources", n, "cosine_l20"] for n in NAMES], list(RATES.values()), unit="source")
OLD = PRINTED.only([name for name in FITTED if name in NAMES])


def test_the_printed_table_gives_the_printed_statistics() -> None:
    """Cosines are printed with three digits: that is what the tolerances are for."""
    r = correlate_points("r", PRINTED, "pearson")
    assert r.estimate == pytest.approx(VALUES["layer_stats", "L20 n12", "pearson_r"], abs=2e-3)
    rho = correlate_points("rho", PRINTED, "spearman")
    assert rho.estimate == pytest.approx(VALUES["layer_stats", "L20 n12", "spearman_rho"], abs=1e-3)
    line = fit_line(OLD)
    assert line.slope.estimate == pytest.approx(VALUES["n10_l20", "all", "slope"], abs=1e-3)
    assert line.residual_sd.estimate == pytest.approx(VALUES["n10_residual_sd", "all", "n10_residual_sd"], abs=1e-3)
    for check in check_predictions(OLD, PRINTED.without(*OLD.names), margin=INFORMATIVE_HALF_WIDTH):
        assert 100 * check.half_width == pytest.approx(VALUES["pi_l20", check.name, "pi_half_pct"], abs=0.2)
        assert check.inside == VALUES["pi_l20", check.name, "inside"]
    pulled = {one.name: one for one in influence(PRINTED)}
    assert pulled["librarian"].cooks_d.estimate == pytest.approx(VALUES["cooks_d", "all", "librarian"], abs=2e-3)
    assert [name for name, one in pulled.items() if one.influential] == ["librarian"]
    assert [name for name, one in pulled.items() if one.high_leverage] == [REFERENCE]


def test_the_parent_s_cosines_give_the_parent_s_correlation_and_not_its_claim() -> None:
    cosines = HEADLINE.inputs[PARENT]
    parent = as_points(list(FITTED), [cosines[n] for n in FITTED], [RATES[n] for n in FITTED], unit="source")
    r = correlate_points("r", parent, "pearson")
    assert r.estimate == pytest.approx(-0.6577091629811103, abs=1e-12)
    assert r.estimate == pytest.approx(VALUES["parent_232_l10", "all", "pearson_r"], abs=5e-4)
    assert count_above("drops", drop_one(parent, "pearson"), 0.05).estimate == 8
    assert HEADLINE.inputs_from


@pytest.mark.parametrize("layer", [10, 15, 20, 25])
@pytest.mark.parametrize(("coefficient", "symbol"), [("pearson", "r"), ("spearman", "rho")])
def test_printed_p_belong_to_printed_coefficients(layer: int, coefficient: str, symbol: str) -> None:
    r, p = (VALUES["layer_stats", f"L{layer} n12", f"{coefficient}_{metric}"] for metric in (symbol, "p"))
    low, high = sorted(asymptotic_p(r + shift, 12) for shift in (-5e-4, 5e-4))
    assert low - 5e-5 <= p <= high + 5e-5
    adjusted = VALUES["bonferroni_x4", f"L{layer}", coefficient]
    assert adjusted == pytest.approx(4 * p, abs=8e-4)


def test_twelve_sources_and_every_refuted_claim_have_a_right_value() -> None:
    assert len(NAMES) == 12 and np.isfinite(list(RATES.values())).all()
    refuted = [f for f in HEADLINE.figures if f.known]
    assert {f.known.by for f in refuted} == {"section 9", "D2", "D3", "D4"}
    assert all(abs(f.value - f.known.value) > f.precision / 2 for f in refuted)
