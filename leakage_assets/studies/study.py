"""The words of a study: conditions, cells, panels, data assembly and the frozen analysis plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.requests import Sampling
from leakage_assets.stimuli import Question, Stimuli
from leakage_assets.store.fingerprint import fingerprint, plain
from leakage_assets.training.recipe import Recipe

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

    from leakage_assets.reporting.report import Report
    from leakage_assets.studies.context import ReportContext
    from leakage_assets.studies.tables import StudyTables
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
        """The main panel's assets are ``samples`` and ``scores``; other panels put their name before."""
        return "" if self.name == MAIN_PANEL else f"{self.name}_"

    @property
    def size(self) -> int:
        """Completions of one adapter over the whole panel."""
        return len(self.prompts) * sum(count for _, count in self.questions) * self.completions


@dataclass(frozen=True)
class OnPolicyData:
    """Training answers written by the base model itself, each persona in its own voice.

    ``completions`` answers per question are written; the first ``used`` that qualify become training rows.
    """

    personas: tuple[str, ...]
    question_set: str
    questions: int
    completions: int
    used: int
    sampling: Sampling


@dataclass(frozen=True)
class Experiment:
    """What a plan is made for: everything that is trained and asked. Another experiment has another plan.

    ``wording`` is the digest of the texts behind the names: prompts of the panels and of the training personas, and
    the questions (see ``wording``).
    """

    sources: tuple[str, ...]
    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    marker: str
    data: OnPolicyData
    panels: tuple[Panel, ...]
    wording: str


def wording(stimuli: Stimuli, data: OnPolicyData, panels: Sequence[Panel]) -> str:
    """sha256 of the texts that are said to the model, by the names under which panels and data list them."""
    prompts = {name for panel in panels for name in panel.prompts} | set(data.personas)
    asked = [*(sets for panel in panels for sets in panel.questions), (data.question_set, data.questions)]
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

    ``learned_rate``: the marker rate under its own prompt from which a source counts as having learned the marker.
    ``gated_ratio``: the share of its own rate below which a source's mean bystander rate counts as gated.
    """

    study: str
    experiment: Experiment
    primary_layer: int
    layers: tuple[int, ...]
    headline_recipe: str
    control_recipe: str
    hypotheses: tuple[Hypothesis, ...]
    learned_rate: float
    gated_ratio: float
    permutations: int
    bootstrap_draws: int
    resampling_seed: int
    caveats: tuple[str, ...]

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


@dataclass(frozen=True)
class Study:
    """One lineage of assets. Everything the pipeline does with a study is read from here."""

    name: str
    title: str
    question: str
    sources: tuple[str, ...]
    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    marker: str
    data: OnPolicyData
    panels: tuple[Panel, ...]
    plan: AnalysisPlan
    assemble: Callable[[Study, Stimuli, Condition, Mapping[str, pl.DataFrame]], Sequence[Row]]
    donors: Callable[[Study, Condition], tuple[str, ...]]
    analyse: Callable[[Study, StudyTables], dict[str, pl.DataFrame]]
    figures: Callable[[Study, Mapping[str, pl.DataFrame]], dict[str, go.Figure]]
    report: Callable[[Study, Mapping[str, pl.DataFrame], ReportContext], Report]
    analysis_version: int = 1
    report_version: int = 1

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(Condition(s, r.name) for r in self.recipes for s in self.sources)

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(Cell(condition, seed) for seed in self.seeds for condition in self.conditions)

    @property
    def panel(self) -> Panel:
        """The main panel: the first."""
        return self.panels[0]

    def experiment(self, stimuli: Stimuli) -> Experiment:
        """What the plan of this study must have been made for."""
        texts = wording(stimuli, self.data, self.panels)
        return Experiment(self.sources, self.recipes, self.seeds, self.marker, self.data, self.panels, texts)

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
        return Cell(Condition(source, self.recipe(recipe).name), seed)


T = TypeVar("T", Recipe, Panel)


def _named(things: Sequence[T], name: str, kind: str, study: str) -> T:
    for thing in things:
        if thing.name == name:
            return thing
    names = ", ".join(thing.name for thing in things)
    raise StudyError(f"study {study}: no {kind} {name!r}; {kind}s: {names}")
