"""How sure a report may be follows from the hypothesis of its title, wherever that stands in the plan."""

from __future__ import annotations

import polars as pl
import pytest

from leakage_assets.studies.report_parts import confidence_level

ORDER = ("H1a", "H1b", "H2b")


def verdicts(**found: str) -> pl.DataFrame:
    return pl.DataFrame(
        [(name, found.get(name, "not supported")) for name in ORDER], schema=["hypothesis", "verdict"], orient="row"
    )


@pytest.mark.parametrize(
    ("found", "excluded", "level"),
    [
        ({"H1a": "supported"}, False, "MODERATE"),  # of another claim than the title's
        ({"H1a": "supported"}, True, "HIGH"),
        ({"H2b": "supported"}, False, "HIGH"),
        ({"H2b": "supported", "H1a": "undecided"}, False, "MODERATE"),
        ({"H2b": "undecided", "H1a": "supported"}, False, "LOW"),
    ],
)
def test_the_level_is_that_of_the_hypothesis_of_the_title(found: dict[str, str], excluded: bool, level: str) -> None:
    table = verdicts(**found)
    asked = {"sources": 4, "sources_planned": 4, "seeds": 3, "excluded": excluded}
    assert confidence_level(table, **asked, titled="H2b") == level


def test_without_a_name_it_is_the_first_hypothesis() -> None:
    table, asked = verdicts(H1a="supported"), {"sources": 4, "sources_planned": 4, "seeds": 3}
    assert confidence_level(table, **asked) == confidence_level(table, **asked, titled="H1a") == "HIGH"


@pytest.mark.parametrize(("found", "level"), [("supported", "MODERATE"), ("undecided", "LOW")])
def test_a_plan_that_was_changed_is_never_high(found: str, level: str) -> None:
    table, asked = verdicts(H1a=found), {"sources": 4, "sources_planned": 4, "seeds": 3}
    assert confidence_level(table, **asked, plan_changes=1) == level


@pytest.mark.parametrize(("found", "level"), [("supported", "MODERATE"), ("undecided", "LOW")])
def test_settings_chosen_on_trials_are_never_high(found: str, level: str) -> None:
    table, asked = verdicts(H1a=found), {"sources": 4, "sources_planned": 4, "seeds": 3}
    assert confidence_level(table, **asked, trials=True) == level


@pytest.mark.parametrize(("found", "level"), [("supported", "MODERATE"), ("undecided", "LOW")])
def test_a_plan_that_came_after_the_scores_is_never_high(found: str, level: str) -> None:
    table, asked = verdicts(H1a=found), {"sources": 4, "sources_planned": 4, "seeds": 3}
    assert confidence_level(table, **asked, plan_first=False) == level
