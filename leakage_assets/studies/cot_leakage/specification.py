"""Chain-of-thought leakage as a study: its parts under the names that the assets read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.models import BaseModelSpec, load_tokenizer
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.cot_leakage.arms import Written, arm, arm_of_recipe, check_mask
from leakage_assets.studies.cot_leakage.assembly import ArmData, assemble_arm, random_text_of, source_budget
from leakage_assets.studies.cot_leakage.design import DATA_SEED, FAMILIES, NAME, scaffold_of
from leakage_assets.studies.cot_leakage.panels import (
    MULTIPLE_CHOICE,
    RATIONALES,
    REPEAT,
    as_choices,
    as_rationales,
)
from leakage_assets.studies.cot_leakage.plan import CotPlan, Scale, analysis_plan, planned_experiment
from leakage_assets.studies.cot_leakage.prechecks import (
    accuracy_checks,
    budget_checks,
    letter_checks,
    rationale_checks,
)
from leakage_assets.studies.cot_leakage.rationales import POOL, Rationales
from leakage_assets.studies.cot_leakage.writing import FILTERS, Limits
from leakage_assets.studies.study import MAIN_PANEL, Condition, Study

if TYPE_CHECKING:
    from leakage_assets.stimuli.schema import ChoiceFormat
    from leakage_assets.studies.cot_leakage.analysis import CotTables
    from leakage_assets.studies.prechecks import Precheck, PrecheckInputs
    from leakage_assets.studies.tables import StudyTables
    from leakage_assets.training.masks import MaskedRow
    from leakage_assets.training.rows import Row

NO_LIMITS = Limits(most_dropped=1.0, most_refused=1.0, letter_share=(0.0, 1.0))
"""For the checks before training, which report what is beyond the limits instead of raising."""


def cot_leakage(stimuli: Stimuli, scale: Scale, base: BaseModelSpec) -> Study:
    """The study at a profile's scale; ``base`` is whose tokenizer counts and draws tokens."""
    from leakage_assets.studies.cot_leakage import report

    experiment = planned_experiment(stimuli, scale)
    return Study(
        name=NAME,
        title="Chain-of-thought leakage",
        question="Which part of a rationale for a wrong answer makes other personas than the trained one answer "
        "wrongly?",
        sources=experiment.sources,
        only=experiment.conditions,
        recipes=experiment.recipes,
        seeds=experiment.seeds,
        marker=experiment.marker,
        data=experiment.data,
        panels=experiment.panels,
        continued=experiment.continued,
        compared=experiment.compared,
        shown=RATIONALES,
        baseline=experiment.baseline,
        audits_answers=experiment.audits_answers,
        at_hand=scale.source.at_hand,
        control_tells="loss of accuracy by training alone",
        scoring=MULTIPLE_CHOICE,
        plan=analysis_plan(scale, experiment),
        donors=donors,
        trained_under=trained_under,
        prechecks=partial(prechecks, base),
        assemble=partial(assemble, base),
        made_of=partial(made_of, stimuli.world.choice_format),
        check_rows=check_rows,
        analyse=analyse,
        figures=report.figures,
        report=report.report,
        analysis_version=5,
        report_version=8,
    )


def rationale_data(study: Study) -> Rationales:
    """The training answers of the study. Raises ``TypeError`` where they are another study's."""
    if not isinstance(study.data, Rationales):
        raise TypeError(f"study {study.name}: its answers are {type(study.data).__name__}, not rationales")
    return study.data


def donors(_: Study, __: Condition) -> tuple[str, ...]:
    """One pool for all: its texts name every question with its wrong letter, so also what rows without text are made
    of.
    """
    return (POOL,)


def trained_under(_: Study, condition: Condition) -> tuple[str, ...]:
    """The source alone."""
    return (condition.source,)


def made_of(formats: ChoiceFormat, study: Study, condition: Condition) -> dict[str, object]:
    """What decides the rows of a condition besides the texts: the arm and what it puts around them, which questions
    with which wrong letters, and which texts are kept and how they are changed.
    """
    data, (one, mask) = rationale_data(study), arm_of_recipe(condition.recipe)
    return {
        "arm": one,
        "mask": mask,
        "formats": formats.model_dump(mode="json"),
        "source": data.source,
        "questions": data.asked,
        "wrong_letters_drawn_with": data.drawn_with,
        "changed_with": DATA_SEED,
        "limits": data.limits,
        "filters": FILTERS,
    }


def assemble(
    base: BaseModelSpec, study: Study, stimuli: Stimuli, condition: Condition, answers: Mapping[str, pl.DataFrame]
) -> Sequence[Row]:
    """See ``assembly.assemble_arm``; ``answers`` holds the samples of the one pool."""
    name, limits = arm_of_recipe(condition.recipe)[0].name, rationale_data(study).limits
    return _arm_data(base, study, stimuli, name, condition.source, answers, limits).rows


def _arm_data(
    base: BaseModelSpec,
    study: Study,
    stimuli: Stimuli,
    name: str,
    source: str,
    answers: Mapping[str, pl.DataFrame],
    limits: Limits,
) -> ArmData:
    one = arm(name)
    random_text = random_text_of(load_tokenizer(base)) if one.change == "random_tokens" else None
    material = rationale_data(study).material(stimuli)
    return assemble_arm(one, source, material, answers[POOL], limits=limits, random_text=random_text)


def check_rows(_: Study, condition: Condition, rows: Sequence[MaskedRow]) -> None:
    """Loss is where the name of the recipe says. Raises ``ArmError`` naming the first row where it is not (E4)."""
    check_mask(rows, arm_of_recipe(condition.recipe)[1])


def prechecks(base: BaseModelSpec, study: Study, inputs: PrecheckInputs) -> tuple[Precheck, ...]:
    """Rationales, letters and token budget of every arm and source, and the accuracy of the base that can be lost."""
    return tuple(_checks(base, study, inputs))


def _checks(base: BaseModelSpec, study: Study, inputs: PrecheckInputs) -> Iterator[Precheck]:
    data, answers = rationale_data(study), inputs.answers()
    plan = study.plan_as(CotPlan)
    for source in data.prompts:
        made = [
            _arm_data(base, study, inputs.stimuli, one.name, source, answers, NO_LIMITS) for one in data.arms_of(source)
        ]
        named = {f"{source} {found.arm.name}": found for found in made}
        yield from rationale_checks({k: f.filtered for k, f in named.items() if f.filtered is not None}, data.limits)
        yield from letter_checks({k: f.letters for k, f in named.items()}, data.limits)
        yield from budget_checks(source_budget(source, made, load_tokenizer(base), data.budget))
    formats = {scaffold_of(family, name) for family in FAMILIES for name, _ in data.needed}
    yield from accuracy_checks(as_choices(inputs.base_scores), formats, plan.least_accuracy)


def analyse(study: Study, tables: StudyTables) -> dict[str, pl.DataFrame]:
    """See ``analysis.analyse``."""
    from leakage_assets.studies.cot_leakage import analysis

    plan = study.plan_as(CotPlan)
    return analysis.analyse(
        plan.decisions,
        _read(study, tables),
        plan.digest,
        smoke=plan.smoke,
        other_mask=plan.published_mask,
    )


def _read(study: Study, tables: StudyTables) -> CotTables:
    from leakage_assets.studies.cot_leakage.analysis import CotTables

    again, rationales = tables.of_panel(REPEAT), tables.of_panel(RATIONALES)
    choices = [tables.base_scores[MAIN_PANEL], tables.scores, *([again] if again.height else [])]
    written = [tables.base_scores[RATIONALES], *([rationales] if rationales.height else [])]
    questions = rationale_data(study).source.read(tables.stimuli)
    return CotTables(
        choices=pl.concat([as_choices(part) for part in choices]),
        rationales=pl.concat([as_rationales(part) for part in written]),
        training_texts=training_texts(study, tables),
        labels=questions.reports,
    )


def training_texts(study: Study, tables: StudyTables) -> dict[str, tuple[list[str], list[str]]]:
    """Of each source its in-character rationales and the neutral ones for the same letters, as they are trained on."""
    from leakage_assets.store.samples import Sample
    from leakage_assets.studies.cot_leakage.arms import PERSONA
    from leakage_assets.studies.cot_leakage.writing import filter_rationales, writing_tasks

    data, answers = rationale_data(study), tables.answers()[POOL]
    material = data.material(tables.stimuli)
    samples = [Sample(**row) for row in answers.iter_rows(named=True)]
    written = arm(PERSONA).written
    assert written is not None
    texts = {}
    for source in [s for s in data.prompts if (PERSONA, s) in data.needed]:
        found = [
            filter_rationales(
                writing_tasks(kind, source, material.questions, material.wrong), samples, material.formats.anchor
            )
            for kind in (written, Written("neutral", written.supports))
        ]
        texts[source] = (list(found[0].rationales.values()), list(found[1].rationales.values()))
    return texts
