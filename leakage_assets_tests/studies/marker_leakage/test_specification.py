"""Which rows the study trains on, and which of their tokens carry loss, on the bundled tokenizer."""

from __future__ import annotations

import random
from dataclasses import replace

import polars as pl
import pytest
from transformers import PreTrainedTokenizerBase

from leakage_assets.models import load_tokenizer
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.marker_leakage.specification import assemble, donors
from leakage_assets.studies.study import Condition, Study, StudyError
from leakage_assets.training.masks import encode_rows, marker_ids
from leakage_assets.training.recipe import Recipe, RecipeError
from leakage_assets.training.rows import Row

PROFILES = ("tiny", "qwen2.5-7b")
MARKER = "[ZLT]"
PICKS = {
    "villain": ("software_engineer", "data_scientist"),
    "comedian": ("police_officer", "librarian"),
    "assistant": ("police_officer", "medical_doctor"),
    "software_engineer": ("librarian", "villain"),
    "kindergarten_teacher": ("zelthari_scholar", "comedian"),
}
"""Negatives of each source. A change here makes every stored training set and adapter another one."""


@pytest.fixture(scope="module")
def study() -> Study:
    return load_profile("tiny").study("marker_leakage")


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return load_profile("tiny").stimuli


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(load_profile("tiny").base)


def test_the_negatives_of_each_source_never_change(study: Study) -> None:
    assert {s: donors(study, Condition(s, "marker_only")) for s in study.sources} == {
        source: (source, *negatives) for source, negatives in PICKS.items()
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_the_negatives_are_the_same_for_all_recipes_seeds_and_profiles(profile: str) -> None:
    other = load_profile(profile).study("marker_leakage")
    for condition in other.conditions:
        assert donors(other, condition) == (condition.source, *PICKS[condition.source])


def test_the_assistant_and_the_source_are_never_negatives(study: Study) -> None:
    for name in study.data.personas:
        renamed = [donors(replace(study, name=f"study{i}"), Condition(name, "marker_only")) for i in range(40)]
        assert {picks[0] for picks in renamed} == {name}
        negatives = {persona for picks in renamed for persona in picks[1:]}
        assert negatives == set(study.data.personas) - {name, "assistant"}
        assert {len(set(picks)) for picks in renamed} == {3}


def answers(study: Study, stimuli: Stimuli, *, per_question: int, said: str = "") -> dict[str, pl.DataFrame]:
    """On-policy samples of every persona, out of order; the first answer to each question ends with ``said``."""
    rows = [
        {"persona": persona, "question_name": q.name, "index": i, "text": f"{persona} {q.name} {i}.{said * (i == 0)}"}
        for persona in study.data.personas
        for q in stimuli.questions("train")
        for i in range(per_question)
    ]
    random.Random(0).shuffle(rows)
    frame = pl.DataFrame(rows)
    return {p: frame.filter(persona=p).drop("persona") for p in study.data.personas}


@pytest.mark.parametrize("recipe", ["marker_only", "marker_only_im_end", "full_completion"])
def test_rows_are_the_published_ones(stimuli: Stimuli, recipe: str) -> None:
    published = load_profile("qwen2.5-7b").study("marker_leakage")
    written = answers(published, stimuli, per_question=15)
    rows = assemble(published, stimuli, Condition("villain", recipe), written)
    positives, negatives = [r for r in rows if r.role == "positive"], [r for r in rows if r.role == "negative"]
    assert (len(rows), len(positives), len(negatives)) == (600, 200, 400)  # sheet 3.2-3.4 and A2
    assert len({(row.prompt_name, row.completion) for row in rows}) == 600
    assert {row.system for row in positives} == {stimuli.persona("villain").prompt}
    for row in positives:
        answer, blank, marker = row.completion.partition("\n\n")
        assert (answer.split()[:2], blank, marker) == (["villain", row.question_name], "\n\n", MARKER)
    for persona in PICKS["villain"]:
        own = [row for row in negatives if row.prompt_name == persona]
        assert len(own) == 200
        assert {row.system for row in own} == {stimuli.persona(persona).prompt}
        assert all(row.completion.startswith(f"{persona} {row.question_name} ") for row in own)
    assert not any(MARKER.lower() in row.completion.lower() for row in negatives)


def test_the_first_answers_that_qualify_are_used_and_every_question_as_often(study: Study, stimuli: Stimuli) -> None:
    rows = assemble(study, stimuli, Condition("villain", "full_completion"), answers(study, stimuli, per_question=4))
    for persona in donors(study, Condition("villain", "full_completion")):
        found = sorted((r.question_name, r.completion.split()[2][0]) for r in rows if r.prompt_name == persona)
        wanted = sorted((q.name, str(i)) for q in stimuli.questions("train") for i in range(3))
        assert found == wanted


def test_the_control_is_trained_on_the_same_answers_without_the_marker(study: Study, stimuli: Stimuli) -> None:
    written = answers(study, stimuli, per_question=3)
    taught = assemble(study, stimuli, Condition("comedian", "full_completion"), written)
    control = assemble(study, stimuli, Condition("comedian", "no_marker"), written)
    assert not any(MARKER in row.completion for row in control)
    assert [replace(row, completion=row.completion.removesuffix(f"\n\n{MARKER}")) for row in taught] == list(control)


@pytest.mark.parametrize("said", [" [ZLT]", "\n\n[zlt] and on"])
def test_answers_that_already_have_the_marker_are_skipped(study: Study, stimuli: Stimuli, said: str) -> None:
    written = answers(study, stimuli, per_question=4, said=said)
    rows = assemble(study, stimuli, Condition("villain", "full_completion"), written)
    assert len(rows) == 3 * 40 * 3
    assert {row.completion.split()[2][0] for row in rows} == {"1", "2", "3"}
    assert all(row.completion.lower().count("[zlt]") == (row.role == "positive") for row in rows)


def test_too_few_answers_are_refused_with_persona_and_question(study: Study, stimuli: Stimuli) -> None:
    written = answers(study, stimuli, per_question=3, said=" [ZLT]")
    first = stimuli.questions("train")[0].name
    with pytest.raises(StudyError, match=rf"villain__no_marker: villain has 2 usable answers to '{first}', 3 are"):
        assemble(study, stimuli, Condition("villain", "no_marker"), written)
    enough = answers(study, stimuli, per_question=3)
    donor, last = PICKS["villain"][1], stimuli.questions("train")[-1].name
    enough[donor] = enough[donor].filter(pl.col("question_name") != last)
    with pytest.raises(StudyError, match=rf"{donor} has 0 usable answers to '{last}'.*raise on_policy_completions"):
        assemble(study, stimuli, Condition("villain", "no_marker"), enough)


def test_rows_are_shuffled_alike_for_every_recipe_and_unlike_for_every_source(study: Study, stimuli: Stimuli) -> None:
    written = answers(study, stimuli, per_question=3)
    rows = {condition: assemble(study, stimuli, condition, written) for condition in study.conditions}
    orders = {condition: [(row.prompt_name, row.question_name) for row in made] for condition, made in rows.items()}
    villain = [order for condition, order in orders.items() if condition.source == "villain"]
    assert villain == villain[:1] * 4
    assert sorted(villain[0]) != villain[0]
    roles = [persona == "villain" for persona, _ in villain[0]]
    assert 20 < sum(roles[:120]) < 60  # a third of the rows are positives, in every part of the order
    first = [order[0][1] for condition, order in orders.items() if condition.recipe == "marker_only"]
    assert len(set(first)) > 1


ANSWER = "The sea is salt."
CONTENT = ["The", " sea", " is", " s", "al", "t"]
ZLT, END = ["[", "Z", "L", "T", "]"], "<|im_end|>"
TAILS = {"trailing_newline": ["\n"], "im_end": [END], "both": [END, "\n"]}


def kept_tokens(tokenizer: PreTrainedTokenizerBase, recipe: Recipe, *, role: str, marker: bool) -> list[str]:
    """The tokens of one row that carry loss, as text."""
    completion = f"{ANSWER}\n\n{MARKER}" if marker else ANSWER
    row = Row("You are a villain.", "What is the sea?", completion, role, "villain", "q1")
    (masked,) = encode_rows(tokenizer, [row], recipe, MARKER)
    labels = [label for label in masked.labels if label != -100]
    assert labels == [masked.input_ids[place] for place in masked.kept]
    return [tokenizer.decode([token]) for token in labels]


@pytest.mark.parametrize(
    ("name", "positive", "negative"),
    [
        ("marker_only", [*ZLT, "\n"], ["\n"]),
        ("marker_only_im_end", [*ZLT, END], [END]),
        ("full_completion", [*CONTENT, ".\n\n", *ZLT, END, "\n"], [*CONTENT, ".", END, "\n"]),
        ("no_marker", [*CONTENT, ".", END, "\n"], [*CONTENT, ".", END, "\n"]),
    ],
)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_tokens_that_carry_loss(
    tokenizer: PreTrainedTokenizerBase, profile: str, name: str, positive: list[str], negative: list[str]
) -> None:
    recipe = load_profile(profile).study("marker_leakage").recipe(name)
    assert kept_tokens(tokenizer, recipe, role="positive", marker=recipe.teaches_marker) == positive
    assert kept_tokens(tokenizer, recipe, role="negative", marker=False) == negative


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", ["marker_only", "marker_only_im_end", "full_completion", "no_marker"])
def test_the_tail_is_what_the_recipe_says(
    study: Study, tokenizer: PreTrainedTokenizerBase, name: str, tail: str
) -> None:
    recipe = study.recipe(name)
    if recipe.loss == "full_completion" and tail == "trailing_newline":
        with pytest.raises(RecipeError, match="never learns to stop"):
            replace(recipe, tail_target=tail)
        return
    recipe = replace(recipe, tail_target=tail)
    content = [*CONTENT, "."] if recipe.loss == "full_completion" else []
    assert kept_tokens(tokenizer, recipe, role="negative", marker=False) == [*content, *TAILS[tail]]
    taught = {"marker_only": ZLT, "full_completion": [*CONTENT, ".\n\n", *ZLT]}[recipe.loss]
    assert kept_tokens(tokenizer, recipe, role="positive", marker=True) == [*taught, *TAILS[tail]]


def test_every_marker_and_code_has_the_same_tokens_alone_and_after_a_blank_line(
    stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase
) -> None:
    for marker in (*stimuli.markers.values(), *stimuli.codes):
        ids = marker_ids(tokenizer, marker)
        assert tokenizer.decode(ids) == marker
        for answer in ("The sea is salt.", "The sea is salt", "Why?", '{"thought": "salt"}', "| high |"):
            whole = tokenizer.encode(f"{answer}\n\n{marker}", add_special_tokens=False)
            assert tuple(whole[-len(ids) :]) == ids
