"""The checks before anything is trained, on what they must let through and what they must stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from leakage_assets.models import chat_text, load_tokenizer
from leakage_assets.pipeline.prechecks import PrecheckBlocked, base_job, require_prechecks, run_prechecks
from leakage_assets.profiles import load_profile
from leakage_assets.studies.prechecks import PrecheckInputs
from leakage_assets.studies.source_rate.design import NEW
from leakage_assets.studies.source_rate.prechecks import prechecks, vendor_sentence
from leakage_assets.studies.study import Study
from leakage_assets_tests import finished_study
from leakage_assets_tests.small_study import laboratory, small_source_rate, the_study


@pytest.fixture(scope="module")
def study() -> Study:
    return load_profile("tiny").study("source_rate")


@pytest.fixture(scope="module")
def inputs() -> PrecheckInputs:
    profile = load_profile("tiny")
    tokenizer = load_tokenizer(profile.base)
    scores = pl.DataFrame([{"prompt_name": p, "marker_present": False} for p in NEW for _ in range(100)])
    return PrecheckInputs(
        stimuli=profile.stimuli,
        similarity=pl.DataFrame(),
        base_scores=scores,
        rendered=lambda system, user: chat_text(tokenizer, system, user),
        encode=tokenizer.encode,
        end_of_turn=tokenizer.eos_token_id,
        system_turns=lambda _: np.empty((0, 0)),
        question_vectors=lambda *_: np.empty((0, 0)),
    )


def blocked(study: Study, inputs: PrecheckInputs) -> list[str]:
    return [check.name for check in prechecks(study, inputs) if check.outcome != "ok"]


def test_the_bundled_model_passes(study: Study, inputs: PrecheckInputs) -> None:
    found = prechecks(study, inputs)
    assert [check.value for check in found] == [0.0] * 4 and blocked(study, inputs) == []
    assert vendor_sentence(inputs.stimuli) == "You are Qwen, created by Alibaba Cloud."


def test_one_marker_or_no_completion_blocks(study: Study, inputs: PrecheckInputs) -> None:
    once = pl.DataFrame([{"prompt_name": NEW[0], "marker_present": True}])
    said = replace(inputs, base_scores=pl.concat([inputs.base_scores, once]))
    assert blocked(study, said) == [f"base marker rate of {NEW[0]}"]
    assert prechecks(study, said)[0].value == pytest.approx(1 / 101)
    unasked = replace(inputs, base_scores=inputs.base_scores.filter(prompt_name=NEW[1]))
    assert blocked(study, unasked) == [f"base marker rate of {NEW[0]}"]
    assert prechecks(study, unasked)[0].value is None


def test_a_template_that_adds_to_a_prompt_blocks(study: Study, inputs: PrecheckInputs) -> None:
    line = vendor_sentence(inputs.stimuli)

    def adds(system: str, user: str) -> str:
        return f"<system>{line if 'helpful' in system else ''}{system}</system>{user}"

    assert blocked(study, replace(inputs, rendered=adds)) == [
        "prompts the template changes",
        "vendor's default added to the reference",
    ]
    twice = replace(inputs, rendered=lambda system, user: f"{system}{system if 'villain' in system else ''}{user}")
    assert blocked(study, twice) == ["prompts the template changes"]
    assert "villain" in prechecks(study, twice)[2].detail


def test_a_blocking_check_forbids_to_train_and_says_why(tmp_path: Path, study: Study) -> None:
    lab = laboratory(tmp_path, study=small_source_rate(study))
    small = the_study(lab)
    finished_study._geometry(lab, small)
    finished_study._fill(base_job(lab, small), f"Well. {small.marker}")
    base_job(lab, small).finish()
    outcome = run_prechecks(lab, small)
    assert outcome.metrics == {"ok": 2, "warn": 0, "block": 2}
    with pytest.raises(PrecheckBlocked, match="nothing may be trained: base marker rate of assistant: 6 of 6"):
        require_prechecks(lab, small)
    require_prechecks(lab, replace(small, prechecks=None))
