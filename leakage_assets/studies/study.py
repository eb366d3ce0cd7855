"""The words of a study: conditions, cells, panels, data assembly and the frozen analysis plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.requests import BASE, Request, Sampling
from leakage_assets.stimuli import Question, Stimuli
from leakage_assets.store.fingerprint import fingerprint, plain
from leakage_assets.studies.scoring import ONE_MARKER, Scoring
from leakage_assets.training.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    import plotly.graph_objects as go
    import polars as pl
    from transformers import PreTrainedTokenizerBase

    from leakage_assets.generation.engine import Engine, Sampler
    from leakage_assets.reporting.report import Report
    from leakage_assets.studies.context import ReportContext
    from leakage_assets.studies.prechecks import Precheck, PrecheckInputs
    from leakage_assets.studies.tables import StudyTables
    from leakage_assets.training.masks import MaskedRow
    from leakage_assets.training.rows import Row

SEPARATOR = "__"
MAIN_PANEL = "main"


class StudyError(PartitionError):
    """A name that no study, source, recipe or seed goes by; the message lists those that exist."""


@dataclass(frozen=True, order=True)
class Condition:
    """A source trained under a recipe. The key is the partition key of the ``condition`` dimension."""

    source: str
    recipe: str

    @property
    def key(self) -> str:
        return f"{self.source}{SEPARATOR}{self.recipe}"

    @classmethod
    def parse(cls, key: str) -> Condition:
        """Inverse of ``key``. Raises ``StudyError`` for a text that is not ``<source>__<recipe>``."""
        source, found, recipe = key.partition(SEPARATOR)
        if not (found and source and recipe):
            raise StudyError(f"condition {key!r}: expected '<source>{SEPARATOR}<recipe>'")
        return cls(source, recipe)


@dataclass(frozen=True, order=True)
class Cell:
    """A condition under one seed: one adapter."""

    condition: Condition
    seed: int

    def adapter_name(self, study: str) -> str:
        """How samples name their adapter: ``<study>/<source>__<recipe>/<seed>``."""
        return f"{study}/{self.condition.key}/{self.seed}"

    def __str__(self) -> str:
        return f"{self.condition.key} seed {self.seed}"


def panel_prefix(panel: str) -> str:
    """The main panel's assets are ``samples`` and ``scores``; other panels put their name before."""
    return "" if panel == MAIN_PANEL else f"{panel}_"


@dataclass(frozen=True)
class Panel:
    """Prompts x questions x completions asked of every adapter.

    ``prompts`` name personas or triggers; ``questions`` maps a question set to how many of its first questions
    are asked.
    """

    name: str
    prompts: tuple[str, ...]
    questions: tuple[tuple[str, int], ...]
    completions: int
    sampling: Sampling

    @property
    def asset_prefix(self) -> str:
        """As ``panel_prefix`` says."""
        return panel_prefix(self.name)

    @property
    def size(self) -> int:
        """Completions of one adapter over the whole panel."""
        return len(self.prompts) * sum(count for _, count in self.questions) * self.completions


class _Asked(Protocol):
    """What every panel tells of itself; ``size`` counts the completions of one adapter."""

    @property
    def name(self) -> str: ...
    @property
    def asset_prefix(self) -> str: ...
    @property
    def sampling(self) -> Sampling: ...
    @property
    def completions(self) -> int: ...
    @property
    def size(self) -> int: ...


class Continued(_Asked, Protocol):
    """A panel whose completions go on from given answers: what is asked depends on the cell.

    ``requests`` are those of a cell; ``answers`` holds the samples of the pools that the cell's condition was trained
    on.
    """

    def requests(
        self, study: Study, stimuli: Stimuli, cell: Cell, answers: Mapping[str, pl.DataFrame]
    ) -> Sequence[Request]: ...


@runtime_checkable
class Chained(_Asked, Protocol):
    """A panel that makes the requests of an adapter itself, and may go on from its samples of another panel.

    ``follows`` names that panel, which is then asked first; ``chained_requests`` get its samples, or None.
    ``size`` is known before any text is.

    ``readings`` are what only the engine can tell of the samples, such as the log-probs of other answers: a table by
    sample_id that is kept beside them and joined to them for the scores; None where the texts are enough. ``adapters``
    maps the adapter's name to its folder (empty for the base).
    """

    @property
    def follows(self) -> str | None: ...
    @property
    def prompts(self) -> tuple[str, ...]: ...

    def chained_requests(self, stimuli: Stimuli, adapter: str, followed: pl.DataFrame | None) -> Sequence[Request]: ...

    def readings(
        self,
        stimuli: Stimuli,
        samples: pl.DataFrame,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Mapping[str, Path],
    ) -> pl.DataFrame | None: ...


AnyPanel = Panel | Continued | Chained


class Pool(Protocol):
    """Texts to train on that are written once: a partition of ``on_policy_completions``.

    ``requests`` are all of them, ``size`` how many there are at most. ``sampler`` is who answers, given how to count
    the tokens of a text; None for the base model on the profile's engine. ``writer`` is the prompt the base writes
    under, or how another writer is named.
    """

    @property
    def name(self) -> str: ...
    @property
    def writer(self) -> str: ...
    @property
    def sampling(self) -> Sampling: ...
    @property
    def size(self) -> int: ...

    def requests(self, stimuli: Stimuli) -> Sequence[Request]: ...

    def sampler(self, stimuli: Stimuli, count: Callable[[str], int]) -> Sampler | None: ...


@dataclass(frozen=True)
class AnswerPool:
    """What the base model writes under one prompt to be trained on.

    ``questions``: (question set, how many of its first); each is answered ``completions`` times.
    """

    name: str
    writer: str
    questions: tuple[tuple[str, int], ...]
    completions: int
    sampling: Sampling

    @property
    def size(self) -> int:
        """Answers in all."""
        return self.completions * sum(count for _, count in self.questions)

    def requests(self, stimuli: Stimuli) -> Sequence[Request]:
        """Every question under the prompt of the writer."""
        system = stimuli.prompt(self.writer)
        return [
            Request(BASE, self.writer, system, set_name, q.name, q.text, index)
            for set_name, count in self.questions
            for q in stimuli.questions(set_name)[:count]
            for index in range(self.completions)
        ]

    def sampler(self, stimuli: Stimuli, count: Callable[[str], int]) -> Sampler | None:  # noqa: ARG002
        """The base model."""
        return None


@runtime_checkable
class WritesFromStimuli(Protocol):
    """A pool whose own writer says what the stimuli and the tokenizer make of it, not its name alone.

    ``written_from`` is what of the stimuli, and of the code that reads them, decides its texts; empty where the name of
    the writer is enough.
    """

    def written_from(self, stimuli: Stimuli) -> Mapping[str, Any]: ...


class Pools(Protocol):
    """Whatever has answers written: the data of a study, or a profile for all of its studies."""

    @property
    def pools(self) -> Sequence[Pool]: ...


class TrainingAnswers(Pools, Protocol):
    """Where the answers of a study's training rows come from.

    ``prompts`` are all that it names, ``question_counts`` what is asked as (question set, how many of its first), and
    ``used`` how many answers to a question become rows.
    """

    @property
    def prompts(self) -> tuple[str, ...]: ...
    @property
    def question_counts(self) -> tuple[tuple[str, int], ...]: ...
    @property
    def used(self) -> int: ...
    @property
    def sampling(self) -> Sampling: ...


@runtime_checkable
class OwnRows(Protocol):
    """Training answers to questions that are no stimuli: how many rows a condition has of them, at most."""

    @property
    def own_rows(self) -> int: ...


@dataclass(frozen=True)
class OnPolicyData:
    """Training answers written by the base model itself, each persona in its own voice: a pool per persona.

    ``completions`` answers per question are written; the first ``used`` that qualify become training rows.
    """

    personas: tuple[str, ...]
    question_set: str
    questions: int
    completions: int
    used: int
    sampling: Sampling

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.personas

    @property
    def question_counts(self) -> tuple[tuple[str, int], ...]:
        return ((self.question_set, self.questions),)

    @property
    def pools(self) -> tuple[AnswerPool, ...]:
        return tuple(
            AnswerPool(name, name, self.question_counts, self.completions, self.sampling) for name in self.personas
        )


@dataclass(frozen=True)
class Experiment:
    """What a plan is made for: everything that is trained and asked. Another experiment has another plan.

    ``wording`` is the digest of the texts behind the names: prompts of the panels and of the training answers, and
    the questions (see ``wording``). A study's own experiment has more fields; one that is called as an attribute of
    ``Study`` is read from there.
    """

    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    marker: str
    data: TrainingAnswers
    panels: tuple[Panel, ...]
    wording: str


def wording(stimuli: Stimuli, data: TrainingAnswers, panels: Sequence[Panel]) -> str:
    """sha256 of the texts that are said to the model, by the names under which panels and data list them."""
    prompts = {name for panel in panels for name in panel.prompts} | set(data.prompts)
    asked = [*(sets for panel in panels for sets in panel.questions), *data.question_counts]
    return fingerprint(
        {
            "prompts": {name: stimuli.prompt(name) for name in prompts},
            "questions": [[name, [q.text for q in stimuli.questions(name)[:count]]] for name, count in asked],
        },
        name="wording",
    )


@dataclass(frozen=True)
class AnalysisPlan:
    """What is decided before the data are seen; hashed, stored first, and quoted by the report's verdicts.

    These fields every plan has; a study's own plan adds the thresholds that only its analysis knows.
    """

    study: str
    experiment: Experiment
    primary_layer: int
    layers: tuple[int, ...]
    headline_recipe: str
    control_recipe: str
    hypotheses: tuple[Hypothesis, ...]
    permutations: int
    resampling_seed: int
    caveats: tuple[str, ...]
    chosen_on_trials: bool = field(default=False, kw_only=True)
    """Whether settings that decide the size of the effect were chosen on trials of the same study: caps the confidence,
    also where the plan is older than every cell of a store."""

    @property
    def digest(self) -> str:
        """sha256 of everything the plan says."""
        return fingerprint(self)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return plain(self, "plan")  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Hypothesis:
    """A claim with its threshold: ``statistic`` names the estimate it is read from."""

    name: str
    claim: str
    statistic: str
    threshold: float
    direction: str
    max_p: float | None = None


P = TypeVar("P", bound=AnalysisPlan)


@dataclass(frozen=True)
class Study:
    """One lineage of assets. Everything the pipeline does with a study is read from here.

    ``donors`` names the pools whose answers a condition is trained on, source first; ``trained_under`` the prompts of
    its rows, where those are not the donors themselves. ``only``: the conditions that are trained, where that is not
    every source under every recipe. ``continued`` are panels besides ``panels``, asked for like them.

    ``anchors``: (source, prompt), where a source is no prompt itself: which prompt of the panel stands for it in the
    geometry.
    ``made_of``: what decides the rows of a condition besides what every study has; it enters their fingerprint.
    ``scoring``: what is read off samples, where that is not the one marker.
    ``gates``: the table of the analysis that holds sanity gates (source, arm, gate, value, limit, direction, passed,
    which is null without a value); they are reported and stop nothing.

    A panel that is ``Chained`` makes its own requests and may go on from the samples of another. ``compared``: whose
    prompts and questions the geometry is measured with, where the main panel is no plain one; it is not asked.
    ``shown``: the panel of the completions in the report.

    ``baseline``: the main panel, with what it follows, is asked of the untrained base as well, before the prechecks.
    ``audits_answers``: the prechecks read the training answers, which are then written before them. ``check_rows`` says
    what must hold of the masked rows of a condition, and raises: where a set is built, and of the rows that every cell
    is trained on. ``at_hand``: whether all questions are on this machine
    (None: always). ``control_tells``: what the control recipe rules out.

    ``compares_system_turns``: prompts are also compared by themselves, without a question (see
    ``geometry.prompt_axes.semantic_cosines``); those ``counted_twice`` weigh double in the mean of the panel.

    ``prechecks`` must pass before anything is trained; for them the base model is asked the main panel under the
    ``silent_prompts``. ``token_prechecks`` are those of them that need no more than the tokenizer (how it encodes a
    text, and the id that ends a turn): where one blocks, the base is not asked. ``analysis_libraries`` are those whose
    versions can change a statistic.
    """

    name: str
    title: str
    question: str
    sources: tuple[str, ...]
    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    marker: str
    data: TrainingAnswers
    panels: tuple[Panel, ...]
    plan: AnalysisPlan
    assemble: Callable[[Study, Stimuli, Condition, Mapping[str, pl.DataFrame]], Sequence[Row]]
    donors: Callable[[Study, Condition], tuple[str, ...]]
    analyse: Callable[[Study, StudyTables], dict[str, pl.DataFrame]]
    figures: Callable[[Study, Mapping[str, pl.DataFrame]], dict[str, go.Figure]]
    report: Callable[[Study, Mapping[str, pl.DataFrame], ReportContext], Report]
    trained_under: Callable[[Study, Condition], tuple[str, ...]] | None = None
    prechecks: Callable[[Study, PrecheckInputs], Sequence[Precheck]] | None = None
    token_prechecks: Callable[[Study, Callable[[str], Sequence[int]], int], Sequence[Precheck]] | None = None
    silent_prompts: tuple[str, ...] = ()
    only: tuple[Condition, ...] | None = None
    continued: tuple[Continued | Chained, ...] = ()
    compared: Panel | None = None
    shown: str = MAIN_PANEL
    baseline: bool = False
    audits_answers: bool = False
    check_rows: Callable[[Study, Condition, Sequence[MaskedRow]], None] | None = None
    at_hand: Callable[[], bool] | None = None
    control_tells: str = "base rate of the marker"
    compares_system_turns: bool = False
    counted_twice: tuple[str, ...] = ()
    anchors: tuple[tuple[str, str], ...] = ()
    made_of: Callable[[Study, Condition], Mapping[str, Any]] | None = None
    scoring: Scoring = ONE_MARKER
    gates: str | None = None
    analysis_libraries: tuple[str, ...] = ("numpy", "polars", "scipy")
    analysis_version: int = 1
    report_version: int = 1

    @property
    def conditions(self) -> tuple[Condition, ...]:
        crossed = (Condition(s, r.name) for r in self.recipes for s in self.sources)
        return tuple(c for c in crossed if self.only is None or c in self.only)

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(Cell(condition, seed) for seed in self.seeds for condition in self.conditions)

    @property
    def panel(self) -> Panel:
        """The panel whose prompts are compared: the main one, where that is a plain one."""
        return self.compared or self.panels[0]

    @property
    def main(self) -> AnyPanel:
        """The main panel: the first."""
        return self.every_panel[0]

    @property
    def main_panels(self) -> tuple[AnyPanel, ...]:
        """The main panel and those that it follows, in the order in which they are asked."""
        chain = [self.main]
        while (follows := self.followed(chain[0])) is not None:
            chain.insert(0, follows)
        return tuple(chain)

    @property
    def further_panels(self) -> tuple[AnyPanel, ...]:
        """All panels but the main one."""
        return self.every_panel[1:]

    @property
    def extra_panels(self) -> tuple[AnyPanel, ...]:
        """The panels that the main one can do without."""
        return tuple(panel for panel in self.further_panels if panel not in self.main_panels)

    @property
    def every_panel(self) -> tuple[AnyPanel, ...]:
        return (*self.panels, *self.continued)

    def followed(self, panel: AnyPanel) -> AnyPanel | None:
        """The panel from whose samples another one goes on; None for one that follows none. Raises ``StudyError``."""
        if not isinstance(panel, Chained) or panel.follows is None:
            return None
        return self.asked_panel(panel.follows)

    def asked_panel(self, name: str) -> AnyPanel:
        """A panel of any kind by name. Raises ``StudyError`` listing those that exist."""
        for panel in self.every_panel:
            if panel.name == name:
                return panel
        raise StudyError(f"study {self.name}: no panel {name!r}; panels: {', '.join(p.name for p in self.every_panel)}")

    def sources_of(self, recipe: str) -> tuple[str, ...]:
        """The sources that are trained under a recipe. Raises ``StudyError`` listing the recipes."""
        name = self.recipe(recipe).name
        return tuple(c.source for c in self.conditions if c.recipe == name)

    def prompts_of(self, condition: Condition) -> tuple[str, ...]:
        """The prompts under which the rows of a condition are, source first."""
        return (self.trained_under or self.donors)(self, condition)

    def anchor(self, source: str) -> str:
        """The prompt that stands for a source: the source itself, unless ``anchors`` says another."""
        return dict(self.anchors).get(source, source)

    def experiment(self, stimuli: Stimuli) -> Experiment:
        """What the plan of this study must have been made for."""
        planned = self.plan.experiment
        own = {f.name: getattr(self, f.name) for f in fields(planned) if hasattr(self, f.name)}
        return replace(planned, **own, wording=wording(stimuli, self.data, self.panels))

    def plan_as(self, kind: type[P]) -> P:
        """The plan with the fields of its study. Raises ``TypeError`` where it is another study's."""
        if not isinstance(self.plan, kind):
            raise TypeError(f"study {self.name}: its plan is a {type(self.plan).__name__}, not a {kind.__name__}")
        return self.plan

    def questions(self, stimuli: Stimuli, panel: Panel | None = None) -> tuple[Question, ...]:
        """The questions of a panel (the main one by default), in order."""
        asked = (panel or self.panel).questions
        return tuple(q for name, count in asked for q in stimuli.question_sets[name].questions[:count])

    def recipe(self, name: str) -> Recipe:
        return _named(self.recipes, name, "recipe", self.name)

    def panel_named(self, name: str) -> Panel:
        return _named(self.panels, name, "panel", self.name)

    def cell(self, source: str, recipe: str, seed: int) -> Cell:
        """A cell of this study. Raises ``StudyError`` listing what exists."""
        if source not in self.sources:
            raise StudyError(f"study {self.name}: no source {source!r}; sources: {', '.join(self.sources)}")
        if seed not in self.seeds:
            seeds = ", ".join(map(str, self.seeds))
            raise StudyError(f"study {self.name}: no seed {seed}; seeds: {seeds}")
        condition = Condition(source, self.recipe(recipe).name)
        if condition not in self.conditions:
            trained = ", ".join(self.sources_of(recipe))
            raise StudyError(f"study {self.name}: no source {source!r} under {recipe}; its sources: {trained}")
        return Cell(condition, seed)

    def chosen_cells(
        self, sources: Sequence[str] | None, recipes: Sequence[str] | None, seeds: Sequence[int] | None
    ) -> list[Cell]:
        """The cells of these sources, recipes and seeds; of all where None.

        Where no recipe is named, a source is left out under those it is not trained under. Raises ``StudyError`` as
        ``cell`` for what does not exist.
        """
        return [
            self.cell(source, recipe, seed)
            for recipe in recipes or [r.name for r in self.recipes]
            for source in sources or self.sources_of(recipe)
            for seed in seeds or self.seeds
            if recipes or source not in self.sources or source in self.sources_of(recipe)
        ]


T = TypeVar("T", Recipe, Panel)


def _named(things: Sequence[T], name: str, kind: str, study: str) -> T:
    for thing in things:
        if thing.name == name:
            return thing
    names = ", ".join(thing.name for thing in things)
    raise StudyError(f"study {study}: no {kind} {name!r}; {kind}s: {names}")
