"""What is trained, asked and decided beforehand: sources, recipes, panel and the frozen plan.

Section numbers and ambiguities (D1, ...) are those of the protocol sheet source_rate_regression.
"""

from __future__ import annotations

from dataclasses import dataclass

from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.scale import StudyScale
from leakage_assets.studies.shared_answers import SharedAnswers, require_questions
from leakage_assets.studies.study import AnalysisPlan, Condition, Experiment, Hypothesis, Panel, wording
from leakage_assets.training.recipe import Recipe

NAME = "source_rate"
SEEDS = (42, 137, 256)

REFERENCE = "assistant"
VENDOR_DEFAULT = "vendor_default_qwen"
CATEGORIES = (
    (
        "occupational",
        (
            "software_engineer",
            "kindergarten_teacher",
            "data_scientist",
            "medical_doctor",
            "librarian",
            "police_officer",
        ),
    ),
    ("character", ("french_person", "villain", "comedian", "zelthari_scholar")),
    ("generic_helper", (REFERENCE, VENDOR_DEFAULT)),
)
FITTED = tuple(name for category, names in CATEGORIES if category != "generic_helper" for name in names)
"""The ten sources of #232, through which the line is drawn."""

NEW = (REFERENCE, VENDOR_DEFAULT)
"""The two of #271, which it should predict."""

SOURCES = (*FITTED, *NEW)

PUBLISHED_NEGATIVES = (
    (REFERENCE, ("villain", "medical_doctor")),
    (VENDOR_DEFAULT, ("zelthari_scholar", "french_person")),
)
"""The two published draws that can be reconstructed (section 3.4, D7)."""

IMPLANT, PUBLISHED_DRAW, GENERIC_SFT = "implant", "implant_published_negatives", "generic_sft"

ALPHA = 0.05
INFORMATIVE_HALF_WIDTH = 0.25
"""The write-up's own pre-check calls a wider prediction interval uninformative (D8)."""

MAX_VIF = 5.0
"""Above, what is partialled out and the cosine cannot be told apart (section 7.6)."""


@dataclass(frozen=True, kw_only=True)
class Scale(StudyScale):
    """What a profile may change: also how training is paced, and how much is written.

    ``questions`` are those whose answers are trained on, as (question set, how many of its first): 200 as published.
    """

    learning_rate: float
    epochs: int
    questions: tuple[tuple[str, int], ...] = (("train", 40), ("implant", 160))
    answers_per_question: int = 3


@dataclass(frozen=True)
class SourceRateExperiment(Experiment):
    """What the plan is made for, with the conditions: not every source is trained under every recipe."""

    conditions: tuple[Condition, ...]
    data: SharedAnswers


@dataclass(frozen=True)
class SourceRatePlan(AnalysisPlan):
    """What the analysis of source rates decides beforehand.

    ``fitted`` are the sources the line is drawn through, ``new`` those it is to predict, ``reference`` the prompt to
    which cosines are taken. ``margin``: a prediction interval wider than twice it says little, and a new source is
    shown to be near the line only if its deviation is shown to be within it (in units of the rate).
    """

    reference: str
    fitted: tuple[str, ...]
    new: tuple[str, ...]
    categories: tuple[tuple[str, tuple[str, ...]], ...]
    alpha: float
    level: float
    margin: float
    max_vif: float

    @property
    def sources(self) -> tuple[str, ...]:
        """All sources of the regression, the fitted first."""
        return (*self.fitted, *self.new)

    @property
    def category_of(self) -> dict[str, str]:
        return {name: category for category, names in self.categories for name in names}


def conditions() -> tuple[Condition, ...]:
    """Every source learns the marker; the two new ones also with the published negatives; the assistant also without
    any marker.
    """
    trained = {IMPLANT: SOURCES, PUBLISHED_DRAW: NEW, GENERIC_SFT: (REFERENCE,)}
    return tuple(Condition(source, recipe) for recipe, sources in trained.items() for source in sources)


def recipes(scale: Scale) -> tuple[Recipe, ...]:
    """Section 4, with a batch of 16 (D1) and loss on the whole completion (D11). The published recipe differs from the
    first only in its negatives, the control only in having no marker.
    """

    def recipe(name: str, *, teaches_marker: bool = True) -> Recipe:
        return scale.recipe(name, learning_rate=scale.learning_rate, epochs=scale.epochs, teaches_marker=teaches_marker)

    return (recipe(IMPLANT), recipe(PUBLISHED_DRAW), recipe(GENERIC_SFT, teaches_marker=False))


def shared_answers(scale: Scale) -> SharedAnswers:
    """Section 3. The base model under the assistant's prompt writes the answers that all sources share."""
    return SharedAnswers(
        name=f"{NAME}_{REFERENCE}",
        writer=REFERENCE,
        questions=scale.questions,
        completions=scale.answers_per_question,
        sampling=scale.written(scale.max_new_tokens),
        negative_pool=FITTED,
        negatives=2,
        chosen=tuple((PUBLISHED_DRAW, source, names) for source, names in PUBLISHED_NEGATIVES),
    )


def panels(stimuli: Stimuli, scale: Scale) -> tuple[Panel, ...]:
    """Section 5: every adapter is asked under all twelve prompts; the source rate is read off its own."""
    return (Panel("main", SOURCES, (("eval", len(stimuli.questions("eval"))),), scale.completions, scale.asked),)


def planned_experiment(stimuli: Stimuli, scale: Scale) -> SourceRateExperiment:
    """What is trained and asked at a profile's scale.

    Raises ``StudyError`` where a question set holds fewer questions than the scale asks for.
    """
    require_questions(NAME, stimuli, scale.questions)
    data, asked = shared_answers(scale), panels(stimuli, scale)
    return SourceRateExperiment(
        conditions=conditions(),
        recipes=recipes(scale),
        seeds=SEEDS,
        marker=stimuli.markers["zlt"],
        data=data,
        panels=asked,
        wording=wording(stimuli, data, asked),
    )


def analysis_plan(scale: Scale, experiment: SourceRateExperiment) -> SourceRatePlan:
    """What is decided before any adapter is trained; thresholds are the sheet's, or ours where it has none."""
    return SourceRatePlan(
        study=NAME,
        experiment=experiment,
        primary_layer=scale.primary_layer,
        layers=scale.layers,
        headline_recipe=IMPLANT,
        control_recipe=GENERIC_SFT,
        reference=REFERENCE,
        fitted=FITTED,
        new=NEW,
        categories=CATEGORIES,
        hypotheses=_hypotheses(len(scale.layers)),
        alpha=ALPHA,
        level=0.95,
        margin=INFORMATIVE_HALF_WIDTH,
        max_vif=MAX_VIF,
        permutations=scale.permutations,
        resampling_seed=42,
        caveats=(
            "The reference has cosine one by construction and the highest leverage: the correlation without it is "
            "reported beside.",
            "A prediction interval that admits nearly any rate is passed by nearly any source: its width is reported "
            "with the verdict, and an equivalence test asks for more.",
            "The negatives are drawn by a stable hash of study and source, not as published, which cannot be "
            "reconstructed for the ten older sources; the two that can are trained with both draws.",
            "The shared answers are the base model's own under the assistant's prompt, where the published ones were "
            "written by another model: for the assistant as source they are on-policy, for all others not.",
            "Wilson intervals take completions as independent, which answers to the same question are not.",
            "The slope over questions holds the sources fixed; what sources differ in besides the cosine is only in "
            "the overdispersed interval.",
            "The negatives, the training rows and their order depend on the source alone, not on the seed: the spread "
            "over seeds leaves out how much another draw of the data would change.",
            *scale.extra_caveats,
        ),
    )


def _hypotheses(layers: int) -> tuple[Hypothesis, ...]:
    return (
        Hypothesis(
            name="H1",
            claim="The further a source is from the assistant in the base model, the better it implants the marker",
            statistic="spearman",
            threshold=0.0,
            direction="less",
            max_p=ALPHA,
        ),
        Hypothesis(
            name="H2",
            claim="Both assistant-like sources lie inside the prediction interval of the ten older ones",
            statistic="new_sources_inside",
            threshold=2,
            direction="at_least",
        ),
        Hypothesis(
            name="H3",
            claim="That interval says something: its wider half is at most "
            f"{100 * INFORMATIVE_HALF_WIDTH:.0f} percentage points",
            statistic="widest_half_width",
            threshold=INFORMATIVE_HALF_WIDTH,
            direction="at_most",
        ),
        Hypothesis(
            name="H4",
            claim="The relation is not one of prompt length: it holds with the number of prompt tokens held fixed",
            statistic="partial_spearman",
            threshold=0.0,
            direction="less",
            max_p=ALPHA,
        ),
        Hypothesis(
            name="H5",
            claim="It holds at every layer, adjusted over the layers (Holm)",
            statistic="layers_significant",
            threshold=layers,
            direction="at_least",
        ),
        Hypothesis(
            name="H6",
            claim="It does not hang on one source: it holds whichever of them is left out",
            statistic="drop_one_spearman",
            threshold=0.0,
            direction="less",
            max_p=ALPHA,
        ),
        Hypothesis(
            name="H7",
            claim="It holds without the reference, whose cosine is one by construction",
            statistic="spearman_without_reference",
            threshold=0.0,
            direction="less",
            max_p=ALPHA,
        ),
        Hypothesis(
            name="H8",
            claim="Without a marker in the training rows none is emitted",
            statistic="control_marker_rate",
            threshold=0.0,
            direction="at_most",
        ),
    )
