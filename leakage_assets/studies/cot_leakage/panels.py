"""The two steps of the evaluation as panels: rationales first, then the letter that comes after them (section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.generation.requests import Request, Sampling
from leakage_assets.measurement.markers import KEYS
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.cot_leakage.evaluation import (
    ANSWER,
    ANSWERING,
    CHOICE_SCHEMA,
    ChoicePanel,
    answer_requests,
    rationale_requests,
    read_choices,
    scaffold,
)
from leakage_assets.studies.cot_leakage.questions import QuestionSource
from leakage_assets.studies.scoring import Scoring
from leakage_assets.studies.study import MAIN_PANEL, Cell, Study, panel_prefix

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from leakage_assets.generation.engine import Engine

RATIONALES, REPEAT, REPEAT_RATIONALES = "rationales", "repeat", "repeat_rationales"
READ = ("letter", "best", "read_from", "answer", "right")
"""What is read of an answer with the engine's help (``evaluation.CHOICE_SCHEMA``)."""


@dataclass(frozen=True)
class Grid:
    """What both steps are about: personas x scaffolds x the first ``asked`` evaluation questions of ``source``."""

    prompts: tuple[str, ...]
    scaffolds: tuple[str, ...]
    source: QuestionSource
    asked: int
    max_new_tokens: int

    def panel(self, stimuli: Stimuli) -> ChoicePanel:
        """The same with its texts. Raises ``QuestionsUnavailable``."""
        return ChoicePanel(
            personas={name: stimuli.prompt(name) for name in self.prompts},
            questions=self.source.read(stimuli).evaluation[: self.asked],
            scaffolds=tuple(scaffold(name) for name in self.scaffolds),
            formats=stimuli.world.choice_format,
        )


@dataclass(frozen=True)
class _Step:
    """A step of one pass over a grid; ``repeat`` numbers the pass, from 0."""

    name: str
    grid: Grid
    repeat: int

    @property
    def asset_prefix(self) -> str:
        return panel_prefix(self.name)

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.grid.prompts

    @property
    def completions(self) -> int:
        return 1

    def _size(self, scaffolds: int) -> int:
        return len(self.grid.prompts) * scaffolds * self.grid.asked


@dataclass(frozen=True)
class RationalePanel(_Step):
    """Step 1: what an adapter writes before it answers, under the scaffolds that let it write."""

    @property
    def follows(self) -> str | None:
        return None

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=0.0, top_p=1.0, max_new_tokens=self.grid.max_new_tokens)

    @property
    def size(self) -> int:
        return self._size(sum(scaffold(name).written for name in self.grid.scaffolds))

    def chained_requests(self, stimuli: Stimuli, adapter: str, followed: pl.DataFrame | None) -> Sequence[Request]:
        """See ``evaluation.rationale_requests``."""
        del followed
        return rationale_requests(self.grid.panel(stimuli), adapter, self.repeat)

    def readings(
        self,
        stimuli: Stimuli,
        samples: pl.DataFrame,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Mapping[str, Path],
    ) -> None:
        """The texts are enough."""
        del stimuli, samples, engine, tokenizer, adapters


@dataclass(frozen=True)
class AnswerPanel(_Step):
    """Step 2: the one token after the anchor, on the rationales of the panel ``goes_on_from``."""

    goes_on_from: str

    @property
    def follows(self) -> str | None:
        return self.goes_on_from

    @property
    def sampling(self) -> Sampling:
        return ANSWERING

    @property
    def size(self) -> int:
        return self._size(len(self.grid.scaffolds))

    def chained_requests(self, stimuli: Stimuli, adapter: str, followed: pl.DataFrame | None) -> Sequence[Request]:
        """See ``evaluation.answer_requests``. Raises ``EvaluationError`` naming a rationale that is missing."""
        written = pl.DataFrame(schema=RATIONALE_KEYS) if followed is None else followed
        return answer_requests(self.grid.panel(stimuli), adapter, written, self.repeat)

    def readings(
        self,
        stimuli: Stimuli,
        samples: pl.DataFrame,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Mapping[str, Path],
    ) -> pl.DataFrame:
        """READ by sample_id (``evaluation.read_choices``)."""
        choices = read_choices(self.grid.panel(stimuli), samples, engine, tokenizer, adapters)
        return pl.concat([samples.select("sample_id"), choices.select(READ)], how="horizontal")


RATIONALE_KEYS = {
    "adapter": pl.String, "index": pl.Int64, "question_set": pl.String, "prompt_name": pl.String,
    "question_name": pl.String, "text": pl.String,
}  # fmt: skip


def panels(grid: Grid, repeated: int) -> tuple[RationalePanel | AnswerPanel, ...]:
    """The main panel of answers and the rationales before it; then a second pass over the first ``repeated`` questions,
    for the noise floor.
    """
    again = Grid(grid.prompts, grid.scaffolds, grid.source, repeated, grid.max_new_tokens)
    return (
        AnswerPanel(MAIN_PANEL, grid, 0, RATIONALES),
        RationalePanel(RATIONALES, grid, 0),
        AnswerPanel(REPEAT, again, 1, REPEAT_RATIONALES),
        RationalePanel(REPEAT_RATIONALES, again, 1),
    )


# ------------------------------------------------------------------ scores


def _identity(_: Study) -> Mapping[str, object]:
    return {"scoring": "multiple choice", "version": 2}


def _score(_: Study, samples: pl.DataFrame) -> pl.DataFrame:
    """Scaffold; of answers READ, of rationales text, n_tokens and finish_reason."""
    own = READ if "letter" in samples.columns else ("text", "n_tokens", "finish_reason")
    named = pl.col("question_set").str.strip_suffix(ANSWER).alias("scaffold")
    return samples.select(*KEYS, named, *own, truncated=pl.col("finish_reason") == "length")


def _metrics(_: Study, scores: pl.DataFrame, cell: Cell) -> dict[str, float]:
    """Accuracy of the source and of the others over all scaffolds, or the mean length of rationales."""
    if "right" not in scores.columns:
        return {"mean_rationale_tokens": float(scores["n_tokens"].mean())}  # type: ignore[arg-type]
    own = pl.col("prompt_name") == cell.condition.source
    found = {
        "source_accuracy": scores.filter(own)["right"].mean(),
        "bystander_accuracy": scores.filter(~own)["right"].mean(),
    }
    return {name: float(share) for name, share in found.items() if share is not None}  # type: ignore[arg-type]


def _kinds(_: Study, scores: pl.DataFrame, cell: Cell) -> pl.DataFrame:
    """Source or bystander, by scaffold."""
    own = pl.col("prompt_name") == cell.condition.source
    who = pl.when(own).then(pl.lit("source")).otherwise(pl.lit("bystander"))
    return scores.select("sample_id", who.alias("who"), pl.col("scaffold").alias("said"))


MULTIPLE_CHOICE = Scoring(
    describes="Chosen letter and whether it is right, or the text of the rationale,",
    columns=(
        ("scaffold", "string", "how the assistant turn was begun and ended"),
        ("letter", "string", "of answers: the letter chosen, empty where none can be read"),
        ("best", "string", "of answers: the letter, or where none is read the likeliest of the four"),
        ("read_from", "string", "of answers: token, logprobs or nothing"),
        ("answer", "string", "of answers: the right label"),
        ("right", "bool", "of answers: whether they agree"),
        ("text", "string", "of rationales: what was written"),
        ("truncated", "bool", "ended by the token limit"),
    ),
    identity=_identity,
    score=_score,
    metrics=_metrics,
    kinds=_kinds,
)


def as_choices(scores: pl.DataFrame) -> pl.DataFrame:
    """Scores of answers as the analysis reads them (``evaluation.CHOICE_SCHEMA``)."""
    return scores.select(pl.col("index").alias("repeat") if name == "repeat" else name for name in CHOICE_SCHEMA)


def as_rationales(scores: pl.DataFrame) -> pl.DataFrame:
    """Scores of rationales as samples of the first step."""
    columns = ("adapter", "prompt_name", "question_set", "question_name", "index", "text", "n_tokens", "finish_reason")
    return scores.select(columns)
