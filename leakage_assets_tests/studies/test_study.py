from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.marker_leakage.specification import MarkerLeakageExperiment, MarkerLeakagePlan
from leakage_assets.studies.study import (
    Cell,
    Condition,
    Hypothesis,
    OnPolicyData,
    Panel,
    Study,
    StudyError,
)
from leakage_assets.training.recipe import Recipe

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", fullmatch=True)


@pytest.fixture(scope="module")
def study() -> Study:
    return load_profile("tiny").study("marker_leakage")


@settings(max_examples=30)
@given(NAMES, NAMES)
def test_a_condition_is_recovered_from_its_key(source: str, recipe: str) -> None:
    condition = Condition(source, recipe)
    assert condition.key == f"{source}__{recipe}"
    assert Condition.parse(condition.key) == condition


@pytest.mark.parametrize("key", ["", "villain", "villain_marker_only", "__marker_only", "villain__"])
def test_a_text_that_is_no_condition_is_refused(key: str) -> None:
    with pytest.raises(StudyError, match=r"expected '<source>__<recipe>'") as error:
        Condition.parse(key)
    assert repr(key) in str(error.value)


def test_every_condition_of_the_study_is_recovered_from_its_key(study: Study) -> None:
    assert len(study.conditions) == len(study.sources) * len(study.recipes) == 20
    assert [Condition.parse(condition.key) for condition in study.conditions] == list(study.conditions)
    assert len({condition.key for condition in study.conditions}) == 20


def test_a_cell_names_its_adapter(study: Study) -> None:
    cell = study.cell("villain", "marker_only", 137)
    assert cell == Cell(Condition("villain", "marker_only"), 137)
    assert cell.adapter_name(study.name) == "marker_leakage/villain__marker_only/137"
    assert str(cell) == "villain__marker_only seed 137"
    assert len(study.cells) == len(set(study.cells)) == 60


@pytest.mark.parametrize(
    ("source", "recipe", "seed", "message"),
    [
        ("vilain", "marker_only", 42, "no source 'vilain'; sources: villain, comedian, assistant, software_engineer"),
        ("villain", "marker", 42, "no recipe 'marker'; recipes: marker_only, marker_only_im_end, full_completion, no"),
        ("villain", "marker_only", 43, "no seed 43; seeds: 42, 137, 256"),
    ],
)
def test_an_unknown_cell_lists_what_exists(study: Study, source: str, recipe: str, seed: int, message: str) -> None:
    with pytest.raises(StudyError, match=f"study marker_leakage: {message}"):
        study.cell(source, recipe, seed)


def test_other_unknown_names_list_what_exists(study: Study) -> None:
    with pytest.raises(StudyError, match="no panel 'odd'; panels: main, ood"):
        study.panel_named("odd")
    with pytest.raises(StudyError, match=r"no profile 'huge'; profiles: tiny, qwen2\.5-7b"):
        load_profile("huge")
    with pytest.raises(StudyError, match="profile tiny: no study 'leakage'; studies: marker_leakage"):
        load_profile("tiny").study("leakage")
    with pytest.raises(StudyError, match="study source_rate: no source 'villain' under generic_sft; its sources: assi"):
        load_profile("tiny").study("source_rate").cell("villain", "generic_sft", 42)


def chosen(sources: list[str] | None, recipes: list[str] | None) -> list[str]:
    cells = load_profile("tiny").study("source_rate").chosen_cells(sources, recipes, [42])
    assert {cell.seed for cell in cells} == {42}
    return [cell.condition.key for cell in cells]


def test_cells_are_chosen_among_the_conditions_that_are_trained() -> None:
    every = [c.key for c in load_profile("tiny").study("source_rate").conditions]
    assert chosen(None, None) == every and len(every) == 15
    assert chosen(["villain"], None) == ["villain__implant"]
    assert chosen(["assistant", "villain"], ["implant"]) == ["assistant__implant", "villain__implant"]
    assert chosen(["assistant"], None) == [key for key in every if key.startswith("assistant__")]
    assert chosen(None, ["generic_sft"]) == ["assistant__generic_sft"]
    for sources, recipes, said in (
        (["villain"], ["generic_sft"], "no source 'villain' under generic_sft"),
        (["vilain"], None, "no source 'vilain'; sources: software_engineer"),
        (None, ["implants"], "no recipe 'implants'; recipes: implant, implant_published_negatives, generic_sft"),
    ):
        with pytest.raises(StudyError, match=said):
            chosen(sources, recipes)


def test_one_name_is_one_pool(study: Study) -> None:
    profile = load_profile("tiny")
    again = dataclasses.replace(profile, studies=(*profile.studies, study))
    assert again.pools == profile.pools
    other = dataclasses.replace(study, data=dataclasses.replace(study.data, completions=9))
    with pytest.raises(StudyError, match="two studies write different answers into pool 'software_engineer'"):
        _ = dataclasses.replace(profile, studies=(study, other)).pools


def test_a_plan_is_read_as_its_own_study_s(study: Study) -> None:
    assert study.plan_as(MarkerLeakagePlan) is study.plan
    with pytest.raises(TypeError, match="study source_rate: its plan is a SourceRatePlan, not a MarkerLeakagePlan"):
        load_profile("tiny").study("source_rate").plan_as(MarkerLeakagePlan)


def test_the_panels_have_the_published_size() -> None:
    stimuli, study = load_profile("qwen2.5-7b").stimuli, load_profile("qwen2.5-7b").study("marker_leakage")
    assert study.panel.size == 111 * 20 * 10  # sheet A3
    assert [q.name for q in study.questions(stimuli)] == [q.name for q in stimuli.questions("eval")]
    ood = study.panel_named("ood")
    assert (ood.size, ood.asset_prefix, study.panel.asset_prefix) == (111 * 60, "ood_", "")
    asked, trained = study.questions(stimuli, ood), stimuli.questions("train")
    assert not {q.text for q in asked} & {q.text for q in trained}


ALTERED_FIELD = {
    MarkerLeakageExperiment: "marker",
    Recipe: "epochs",
    Panel: "completions",
    OnPolicyData: "used",
    Hypothesis: "threshold",
}


def altered(value: object) -> object:
    """Another value of the same type."""
    match value:
        case str():
            return f"{value}x"
        case int() | float():
            return value + 1
        case MarkerLeakageExperiment() | Recipe() | Panel() | OnPolicyData() | Hypothesis():
            field = ALTERED_FIELD[type(value)]
            return dataclasses.replace(value, **{field: altered(getattr(value, field))})
        case tuple():
            return (*value[:-1], altered(value[-1]))
        case None:
            return 0.5
    raise TypeError(type(value))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(MarkerLeakagePlan)])
def test_the_digest_of_a_plan_changes_with_each_field(study: Study, field: str) -> None:
    changed = dataclasses.replace(study.plan, **{field: altered(getattr(study.plan, field))})
    assert changed.digest != study.plan.digest
    assert dataclasses.replace(changed, **{field: getattr(study.plan, field)}).digest == study.plan.digest


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(MarkerLeakageExperiment)])
def test_the_digest_of_a_plan_changes_with_each_field_of_its_experiment(study: Study, field: str) -> None:
    experiment = study.plan.experiment
    changed = dataclasses.replace(experiment, **{field: altered(getattr(experiment, field))})
    assert dataclasses.replace(study.plan, experiment=changed).digest != study.plan.digest


@pytest.mark.parametrize("profile", ["tiny", "qwen2.5-7b"])
def test_a_plan_is_made_for_what_the_study_does(profile: str) -> None:
    loaded = load_profile(profile)
    for study in loaded.studies:
        assert study.plan.experiment == study.experiment(loaded.stimuli)


def test_another_wording_is_another_experiment(study: Study) -> None:
    stimuli = load_profile("tiny").stimuli
    planned = study.plan.experiment

    def reworded(personas: tuple[str, ...]) -> Stimuli:
        changed = [p.model_copy(update={"prompt": f"{p.prompt} Really."}) if p.name in personas else p
                   for p in stimuli.personas]  # fmt: skip
        return stimuli.model_copy(update={"personas": tuple(changed)})

    assert study.experiment(reworded(())) == planned
    assert study.experiment(reworded(("villain",))) != planned
    sets = dict(stimuli.question_sets)
    first, *rest = sets["eval"].questions
    asked = sets["eval"].model_copy(update={"questions": (first.model_copy(update={"text": "Why?"}), *rest)})
    assert study.experiment(stimuli.model_copy(update={"question_sets": sets | {"eval": asked}})) != planned
    fewer = dataclasses.replace(study, panels=(dataclasses.replace(study.panel, prompts=("villain",)),))
    unasked = next(p.name for p in stimuli.personas if p.name not in ("villain", *study.data.personas))
    assert fewer.experiment(reworded((unasked,))) == fewer.experiment(stimuli)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Hypothesis)])
def test_the_digest_of_a_plan_changes_with_each_field_of_a_hypothesis(study: Study, field: str) -> None:
    for number, hypothesis in enumerate(study.plan.hypotheses):
        changed = list(study.plan.hypotheses)
        changed[number] = dataclasses.replace(hypothesis, **{field: altered(getattr(hypothesis, field))})
        assert dataclasses.replace(study.plan, hypotheses=tuple(changed)).digest != study.plan.digest
    swapped = dataclasses.replace(study.plan, hypotheses=study.plan.hypotheses[::-1])
    assert swapped.digest != study.plan.digest


def test_a_plan_as_values_holds_every_field(study: Study) -> None:
    content = study.plan.as_dict()
    assert set(content) == {field.name for field in dataclasses.fields(MarkerLeakagePlan)}
    assert content["hypotheses"][0]["threshold"] == 0.4
    assert content["layers"] == list(study.plan.layers)


def test_every_hypothesis_has_a_direction_that_is_decided_on(study: Study) -> None:
    assert [h.name for h in study.plan.hypotheses] == ["H1", "H2", "H3", "H4", "H5", "H6"]
    assert {h.direction for h in study.plan.hypotheses} <= {"greater", "at_least", "less", "at_most"}
    assert study.plan.primary_layer in study.plan.layers
    names = {recipe.name for recipe in study.recipes}
    assert {study.plan.headline_recipe, study.plan.control_recipe} <= names
