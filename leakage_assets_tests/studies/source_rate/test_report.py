"""The report of source rate over made-up completions: complete or hardly begun, every number is an artifact's."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from leakage_assets.pipeline.conclusions import analysis_inputs, freeze_plan
from leakage_assets.profiles import load_profile
from leakage_assets.studies.source_rate.design import GENERIC_SFT, IMPLANT, PUBLISHED_DRAW, SOURCES
from leakage_assets_tests.finished_study import finish
from leakage_assets_tests.small_study import laboratory, small_source_rate, the_study
from leakage_assets_tests.written_report import WrittenReport


class Published(WrittenReport):
    """A laboratory with cells of these recipes finished, its tables and its report."""

    def __init__(self, root: Path, recipes: tuple[str, ...], sources: tuple[str, ...] = SOURCES) -> None:
        lab = laboratory(root, study=small_source_rate(load_profile("tiny").study("source_rate"), sources))
        freeze_plan(lab, the_study(lab))
        super().__init__(lab, finish(lab, recipes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("whole"), (IMPLANT, PUBLISHED_DRAW, GENERIC_SFT))


def test_every_number_of_the_whole_report_is_an_artifact_s(whole: Published) -> None:
    assert whole.findings() == []
    assert whole.outcome.metrics == {"confidence": "MODERATE", "cells": 15, "cells_planned": 15}
    assert whole.figures.metrics == {"figures": 1}
    assert "Figures left out" not in whole.markdown
    for heading in ("What the line predicts", "Layers", "Prompt length", "Published and this run", "Completions"):
        assert any(heading in found for found in whole.headings), heading


def test_the_title_says_what_the_first_verdict_is(whole: Published) -> None:
    first = whole.markdown.splitlines()[0]
    words = {
        "supported": "implant a marker better",
        "not supported": "is not shown to predict",
        "undecided": "it is undecided",
    }
    assert words[whole.tables["verdicts"]["verdict"][0]] in first
    rho = whole.tables["headline"].filter(statistic="spearman")["estimate"].item()
    assert f"{rho:+.2f}" in first


def test_the_negatives_of_every_condition_are_printed(whole: Published) -> None:
    drawn = {c.key: whole.study.prompts_of(c)[1:] for c in whole.study.conditions}
    assert drawn["assistant__implant_published_negatives"] == ("villain", "medical_doctor")
    rows = [
        line for line in whole.markdown.splitlines() if line.startswith("| `implant") or "| `generic_sft` | `" in line
    ]
    for condition in whole.study.conditions:
        told = f"| `{condition.recipe}` | `{condition.source}` | {', '.join(f'`{n}`' for n in drawn[condition.key])} |"
        assert told in rows


def test_prompt_lengths_are_those_of_the_tokenizer(whole: Published) -> None:
    from leakage_assets.models import load_tokenizer

    tokenizer, stimuli = load_tokenizer(whole.lab.profile.base), whole.lab.profile.stimuli
    expected = {s: len(tokenizer.encode(stimuli.prompt(s), add_special_tokens=False)) for s in SOURCES}
    assert dict(whole.tables["points"].select("source", "tokens").iter_rows()) == expected


def test_few_sources_leave_verdicts_open(tmp_path: Path) -> None:
    made = Published(tmp_path, (IMPLANT,), ("villain", "comedian", "assistant"))
    assert made.findings() == []
    assert "it is undecided" in made.markdown.splitlines()[0]
    assert made.outcome.metrics["confidence"] == "LOW"
    assert made.tables["headline"].filter(statistic="spearman")["undefined"].item()


def test_without_the_headline_recipe_nothing_is_concluded(tmp_path: Path) -> None:
    made = Published(tmp_path, (GENERIC_SFT,))
    assert made.findings() == []
    assert "No cell of the headline recipe `implant` is finished" in made.markdown
    assert "`source_rate` needs two finished sources of recipe `implant`." in made.markdown
    control = made.tables["headline"].filter(statistic="control_marker_rate")
    assert control["estimate"].item() == 0.0
    verdicts = dict(made.tables["verdicts"].select("hypothesis", "verdict").iter_rows())
    assert verdicts.pop("H8") == "supported" and set(verdicts.values()) == {"undecided"}


def test_the_analysis_is_of_the_statsmodels_it_was_made_with(whole: Published) -> None:
    identity = analysis_inputs(whole.lab, whole.study).identity
    assert identity["libraries"]["statsmodels"] == version("statsmodels")
