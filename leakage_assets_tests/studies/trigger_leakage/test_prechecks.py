"""The checks before anything is trained, as the study runs them: on the bundled base, and on what they must stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from leakage_assets.models import chat_text, load_tokenizer
from leakage_assets.profiles import load_profile
from leakage_assets.studies.prechecks import Precheck, PrecheckInputs, template_additions
from leakage_assets.studies.study import Study
from leakage_assets.studies.trigger_leakage.prechecks import prechecks

QUESTIONS_ALIKE = "training questions like an evaluation question"
ADDED = "prompts the template changes"


@pytest.fixture(scope="module")
def study() -> Study:
    return load_profile("tiny").study("trigger_leakage")


@pytest.fixture(scope="module")
def inputs(study: Study) -> PrecheckInputs:
    """Vectors of chance in place of the base model's, and its real template."""
    profile = load_profile("tiny")
    tokenizer = load_tokenizer(profile.base)
    rng = np.random.default_rng(3)

    def turns(layer: int) -> np.ndarray:
        assert layer == study.plan.primary_layer
        return rng.normal(size=(36, 16)).astype(np.float32)

    def questions(system: str, texts: Sequence[str], layer: int) -> np.ndarray:
        assert (system, layer) == ("You are a helpful assistant.", study.plan.primary_layer)
        return rng.normal(size=(len(texts), 30)).astype(np.float32)

    return PrecheckInputs(
        stimuli=profile.stimuli,
        similarity=pl.DataFrame(),
        base_scores=pl.DataFrame(),
        rendered=lambda system, user: chat_text(tokenizer, system, user),
        encode=tokenizer.encode,
        end_of_turn=tokenizer.eos_token_id,
        system_turns=turns,
        question_vectors=questions,
    )


def blocked(found: Sequence[Precheck]) -> list[str]:
    return [check.name for check in found if check.outcome == "block"]


def test_the_panel_passes_and_every_check_is_run(study: Study, inputs: PrecheckInputs) -> None:
    found = prechecks(study, inputs)
    assert blocked(found) == []
    # Six pairs of axes, the largest overlap, two checks of 8 paraphrases, one of 8 bystanders, questions, template.
    assert len(found) == len({check.name for check in found}) == 6 + 1 + 16 + 8 + 2


def test_training_questions_that_are_evaluation_questions_block(study: Study, inputs: PrecheckInputs) -> None:
    def same(_: str, texts: Sequence[str], __: int) -> np.ndarray:
        vectors = np.random.default_rng(1).normal(size=(len(texts), 30)).astype(np.float32)
        vectors[:100] = vectors[-1] + 0.01 * vectors[:100]
        return vectors

    assert blocked(prechecks(study, replace(inputs, question_vectors=same))) == [QUESTIONS_ALIKE]


def test_a_template_that_fills_the_empty_prompt_blocks(study: Study, inputs: PrecheckInputs) -> None:
    def fills(system: str, user: str) -> str:
        return f"<system>{system or 'You are Qwen.'}</system>{user}"

    found = {check.name: check for check in prechecks(study, replace(inputs, rendered=fills))}
    assert found[ADDED].outcome == "block" and found[ADDED].detail == "differently framed: control_empty"


def test_a_template_that_says_a_prompt_twice_blocks() -> None:
    prompts = {"one": "Be brief.", "two": "Be kind.", "none": ""}
    assert template_additions(prompts, lambda system, user: f"<{system}>{user}").outcome == "ok"
    twice = template_additions(prompts, lambda s, user: f"<{s}{s if 'kind' in s else ''}>{user}")
    assert (twice.outcome, twice.value, twice.detail) == ("block", 1, "differently framed: two")
