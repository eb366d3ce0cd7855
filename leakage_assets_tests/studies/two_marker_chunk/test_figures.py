"""Every planned figure is drawn from the tables of the analysis, and says what it lacks where it cannot be."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from leakage_assets.reporting.preview import png_preview
from leakage_assets.studies.drawings import draw_all
from leakage_assets.studies.two_marker_chunk.analysis import analyse
from leakage_assets.studies.two_marker_chunk.arms import PAIRS
from leakage_assets.studies.two_marker_chunk.design import originals
from leakage_assets.studies.two_marker_chunk.figures import SHOWN_ARMS, drawings
from leakage_assets_tests.studies.two_marker_chunk.worlds import STIMULI, habit, scores, study_plan

PLAN = study_plan(200)
PAIR = PAIRS[0]


def tables(**rates: float):
    silent = habit(a=0.0)
    trained = {"donor": habit(a=0.9, b_at_end=0.8), "recipient": habit(**rates)}
    habits = {
        (recipe, PAIR.name, persona): trained.get(PAIR.role(persona), silent)
        for recipe in ("T", "C")
        for persona in originals(STIMULI)
    }
    return analyse(PLAN, scores(habits, completions=3))


@pytest.fixture(scope="module")
def drawn():
    return draw_all(drawings, PLAN, tables(a=0.5, b_at_end=0.3))[0]


def test_all_are_drawn_and_can_be_printed(drawn) -> None:
    assert list(drawn) == ["conditional_rate", f"personas_{PAIR.name}", "positions"]
    assert set(drawn) <= {d.name for d in drawings(PLAN)}
    for figure in drawn.values():
        assert Image.open(io.BytesIO(png_preview(figure))).width > 300


def test_rates_of_donor_and_recipient_stand_side_by_side(drawn) -> None:
    donor, recipient = drawn["conditional_rate"].data
    assert (donor.name, recipient.name) == ("donor", "recipient")
    assert list(donor.y) == [f"{PAIR.name} · T", f"{PAIR.name} · C"]
    assert donor.error_x.array is not None and min(donor.x) > max(recipient.x)


def test_who_never_says_a_is_named_and_does_not_pass_for_a_rate_of_zero() -> None:
    made, _ = draw_all(drawings, PLAN, tables(a=0.0))
    (donor,) = made["conditional_rate"].data
    assert donor.name == "donor" and list(donor.y) == [f"{PAIR.name} · {arm} (recipient: no A)" for arm in "TC"]
    (zero, _) = draw_all(drawings, PLAN, tables(a=0.5))[0]["conditional_rate"].data[1].x
    assert zero == 0.0


def test_the_caption_names_the_arms_that_have_panels() -> None:
    (said,) = (d.caption for d in drawings(PLAN) if d.name == f"personas_{PAIR.name}")
    assert all(f"`{arm}`" in said for arm in SHOWN_ARMS) and "The rates of the other arms" in said


def test_trained_personas_are_marked(drawn) -> None:
    figure = drawn[f"personas_{PAIR.name}"]
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:4] == [f"{arm} · {m}" for arm in "TC" for m in "AB"]
    names = list(dict.fromkeys(trace.name for trace in figure.data))
    assert names == ["donor (trained)", "recipient (trained)", "trained without markers", "not trained"]
    colours = {trace.name: trace.marker.color for trace in figure.data}
    assert len(set(colours.values())) == 4
    shown = [name for trace in figure.data[:4] for name in trace.y]
    assert sorted(shown) == sorted(originals(STIMULI)) and shown[:2] == [PAIR.donor, PAIR.recipient]


def test_positions_are_those_of_the_markers(drawn) -> None:
    a, b = drawn["positions"].data[:2]
    assert (a.name, b.name) == ("marker A", "marker B")
    assert a.y[1] == 1.0 and b.y[-2] == 1.0


def test_a_pair_that_says_nothing_leaves_no_figure_of_b() -> None:
    silent = {(r, PAIR.name, p): habit(a=0.0) for r in ("T", "C") for p in originals(STIMULI)}
    made, lacking = draw_all(drawings, PLAN, analyse(PLAN, scores(silent, completions=1)))
    assert set(made) == {f"personas_{PAIR.name}"} and {"conditional_rate", "positions"} <= set(lacking)
    made, lacking = draw_all(drawings, PLAN, analyse(PLAN, scores(silent, completions=1).clear()))
    assert not made and set(lacking) == {d.name for d in drawings(PLAN)}
