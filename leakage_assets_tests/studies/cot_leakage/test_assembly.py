"""From the tiny world to the rows of every arm: texts are written once, filtered, changed, audited and trained on."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from transformers import PreTrainedTokenizerBase

from leakage_assets.measurement.multiple_choice import wrong_letters
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.samples import SampleStore
from leakage_assets.studies.cot_leakage.arms import (
    ARMS,
    GENERIC,
    LOSSES,
    NO_COT,
    PERSONA_CORRECT,
    RANDOM_TOKENS,
    SCRAMBLED,
    ArmError,
    arm,
    check_mask,
    recipe_name,
)
from leakage_assets.studies.cot_leakage.assembly import (
    ArmData,
    Material,
    assemble_arm,
    random_text_of,
    source_budget,
)
from leakage_assets.studies.cot_leakage.budget import BudgetLimits
from leakage_assets.studies.cot_leakage.design import EXTENSION_SOURCES, SOURCES, recipes
from leakage_assets.studies.cot_leakage.grammar_writer import WRITER, GrammarWriter
from leakage_assets.studies.cot_leakage.questions import Questions
from leakage_assets.studies.cot_leakage.writing import Limits, RationaleError
from leakage_assets.training.masks import encode_rows
from leakage_assets_tests.studies.cot_leakage.steps import have_written

SOURCE = "comedian"
BUDGET = BudgetLimits(tokens=(40, 56))


@pytest.fixture(scope="module")
def material(stimuli: Stimuli, questions: Questions) -> Material:
    personas = {source: stimuli.prompt(source) for source in (*SOURCES, *EXTENSION_SOURCES)}
    return Material(questions.train, wrong_letters(questions.train, 42), stimuli.world.choice_format, personas)


@pytest.fixture(scope="module")
def samples(
    stimuli: Stimuli, material: Material, tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> pl.DataFrame:
    tasks = [task for one in ARMS for task in material.tasks(one, SOURCE)]
    writer = GrammarWriter(stimuli, tasks, lambda text: len(tokenizer.encode(text, add_special_tokens=False)))
    store = SampleStore(tmp_path_factory.mktemp("rationales"))
    requests = material.requests(ARMS, (SOURCE,), WRITER)
    assert have_written(writer, requests, store).generated == len(requests)
    return store.frame()


@pytest.fixture(scope="module")
def made(material: Material, samples: pl.DataFrame, tokenizer: PreTrainedTokenizerBase) -> dict[str, ArmData]:
    make = random_text_of(tokenizer)
    return {one.name: assemble_arm(one, SOURCE, material, samples, limits=Limits(), random_text=make) for one in ARMS}


def test_a_text_that_several_arms_or_sources_need_is_written_once(material: Material) -> None:
    one_source = material.requests(ARMS, (SOURCE,), WRITER)
    assert len(one_source) == 5 * 240  # neutral and in character, for either letter, and garbage
    assert len(material.requests(ARMS, SOURCES, WRITER)) == 3 * 240 + 4 * 2 * 240


def test_every_arm_has_a_row_per_question_and_what_the_checks_need(made: dict[str, ArmData]) -> None:
    assert {len(data.rows) for data in made.values()} == {240}
    assert made[NO_COT].filtered is None and made[GENERIC].filtered is not None
    for data in made.values():
        assert [row.completion[-1] for row in data.rows] == list(data.letters)
        assert all(text in turn for text, turn in zip(data.texts.rationales, data.texts.turns, strict=True))
    assert made[SCRAMBLED].letters == made[GENERIC].letters != made[PERSONA_CORRECT].letters
    assert sorted(made[SCRAMBLED].texts.rationales[0].replace(".", "").split()) == sorted(
        made[GENERIC].texts.rationales[0].replace(".", "").split()
    )


def test_the_arms_of_the_tiny_world_pass_the_token_budget(
    made: dict[str, ArmData], tokenizer: PreTrainedTokenizerBase
) -> None:
    table = source_budget(SOURCE, made.values(), tokenizer, BUDGET)
    assert table.filter(~pl.col("passed")).is_empty()
    assert table["arm"].n_unique() == 9 and table.height == 9 * 8 + 5


@pytest.mark.parametrize("mask", LOSSES)
def test_the_rows_of_every_arm_are_trained_under_the_named_mask(
    made: dict[str, ArmData], tokenizer: PreTrainedTokenizerBase, mask: str
) -> None:
    by_name = {recipe.name: recipe for recipe in recipes((mask,), max_length=512)}
    for name, data in made.items():
        masked = encode_rows(tokenizer, data.rows[:20], by_name[recipe_name(name, mask)], "")
        check_mask(masked, mask)


def test_a_text_that_is_missing_or_useless_stops_the_arm(material: Material, samples: pl.DataFrame) -> None:
    with pytest.raises(RationaleError, match="neutral_wrong/train_0: never written"):
        assemble_arm(
            arm(GENERIC), SOURCE, material, samples.filter(pl.col("question_name") != "train_0"), limits=Limits()
        )
    useless = samples.with_columns(pl.col("text").str.replace("Answer: ", "So "))
    with pytest.raises(RationaleError, match=r"arm generic_cot of comedian: 100.0% of 240 rationales dropped"):
        assemble_arm(arm(GENERIC), SOURCE, material, useless, limits=Limits())
    with pytest.raises(RationaleError, match=r"arm no_cot of comedian: .* rows teach"):
        assemble_arm(
            arm(NO_COT), SOURCE, replace(material, wrong=dict.fromkeys(material.wrong, "A")), samples, limits=Limits()
        )
    with pytest.raises(ArmError, match="random_tokens: needs a tokenizer"):
        assemble_arm(arm(RANDOM_TOKENS), SOURCE, material, samples, limits=Limits())


def test_dropped_texts_leave_the_other_rows_as_they_were(
    material: Material, samples: pl.DataFrame, made: dict[str, ArmData]
) -> None:
    lost = pl.col("question_name").is_in([f"train_{i}" for i in range(24)])
    changed = samples.with_columns(
        pl.when(lost).then(pl.lit("I cannot say. Answer: A")).otherwise("text").alias("text")
    )
    found = assemble_arm(arm(SCRAMBLED), SOURCE, material, changed, limits=Limits(most_refused=0.2))
    assert found.filtered is not None and found.filtered.share("refusal") == 0.1
    assert found.rows == made[SCRAMBLED].rows[24:]
