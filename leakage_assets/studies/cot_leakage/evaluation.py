"""The two-step evaluation: a greedy rationale, a forced end and anchor, and the letter that comes next (section 5).

Both steps are requests to an engine, so every rationale and every answer token is a stored sample. The likeliest next
token is drawn greedily: where it is a letter, it is the best of the published list of the 20 likeliest. Elsewhere the
letters are compared by their log-probs, and the best one is read where it holds a twentieth of the probability: then it
is certainly on that list. This is not the published rule, which reads the best letter of the list however unlikely it
is: an engine scores given tokens and does not rank them. An answer whose best letter is below a twentieth counts as
wrong here and was read there, so an arm whose next token drifts from letters loses accuracy by the rule. The best of
the four letters at any probability is kept beside (``best``), and bounds what that does from the other side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.engine import Engine, ScoringItem
from leakage_assets.generation.requests import BASE, Request, Sampling
from leakage_assets.measurement.multiple_choice import LETTERS, MultipleChoice, letter_of
from leakage_assets.models import chat_ids
from leakage_assets.stimuli.schema import ChoiceFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Opening = Literal["none", "opener", "persona", "neutral"]
ReadFrom = Literal["token", "logprobs", "nothing"]

ANSWERING = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=1)
LEAST_SHARE = 1 / 20
"""Of the probability, for a letter that is not the likeliest token."""

ANSWER = "_answer"
"""Ends the question set of the second step."""

CHOICE_SCHEMA: dict[str, pl.DataType] = {
    "adapter": pl.String(),
    "scaffold": pl.String(),
    "prompt_name": pl.String(),
    "question_name": pl.String(),
    "repeat": pl.Int64(),
    "letter": pl.String(),
    "best": pl.String(),
    "read_from": pl.String(),
    "answer": pl.String(),
    "right": pl.Boolean(),
}


class EvaluationError(PartitionError):
    """A scaffold that does not exist, or answers that do not fit their questions; the message names them."""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """How an assistant turn is begun and ended. ``opening``: what stands before the rationale; ``written``: whether the
    model writes one; ``published``: whether it is one of the four of the write-up.
    """

    name: str
    opening: Opening
    written: bool
    published: bool = True


NO_COT = Scaffold("no_cot", "none", written=False)
GENERIC_COT = Scaffold("generic_cot", "opener", written=True)
PERSONA_COT = Scaffold("persona_cot", "persona", written=True)
EMPTY_PERSONA_COT = Scaffold("empty_persona_cot_eval", "persona", written=False)
NEUTRAL_COT = Scaffold("neutral_cot", "neutral", written=True, published=False)
SCAFFOLDS = (NO_COT, GENERIC_COT, PERSONA_COT, EMPTY_PERSONA_COT, NEUTRAL_COT)
"""The four of section 5, and the one with the tag that most arms were trained with (E1)."""


def scaffold(name: str) -> Scaffold:
    """A scaffold by name. Raises ``EvaluationError`` listing those that exist."""
    for one in SCAFFOLDS:
        if one.name == name:
            return one
    raise EvaluationError(f"no scaffold {name!r}; scaffolds: {', '.join(s.name for s in SCAFFOLDS)}")


def opening(one: Scaffold, formats: ChoiceFormat) -> str:
    """What the assistant turn starts with before anything is generated."""
    return {
        "none": "",
        "opener": f"{formats.opener} ",
        "persona": f"{formats.persona_tag.open}\n",
        "neutral": f"{formats.neutral_tag.open}\n",
    }[one.opening]


def answer_prefix(one: Scaffold, formats: ChoiceFormat, rationale: str) -> str:
    """The assistant turn up to the letter: the closing tag and the anchor are appended whatever the model wrote."""
    if one.opening == "none":
        return ""
    closing = {"opener": "", "persona": f"\n{formats.persona_tag.close}", "neutral": f"\n{formats.neutral_tag.close}"}
    return f"{opening(one, formats)}{rationale}{closing[one.opening]}\n{formats.anchor}"


def user_turn(one: Scaffold, formats: ChoiceFormat, question: MultipleChoice) -> str:
    """The rendered question; without a rationale it ends in the cue, an opening parenthesis."""
    rendered = question.render(formats.option)
    return f"{rendered}\n\n{formats.cue}" if one.opening == "none" else rendered


@dataclass(frozen=True)
class ChoicePanel:
    """What is asked of every adapter: personas (name -> system prompt) x scaffolds x questions."""

    personas: Mapping[str, str]
    questions: tuple[MultipleChoice, ...]
    scaffolds: tuple[Scaffold, ...]
    formats: ChoiceFormat


def rationale_requests(panel: ChoicePanel, adapter: str, repeat: int = 0) -> list[Request]:
    """Step 1: the rationales that one adapter must write, one pass over the panel."""
    return [
        Request(adapter, name, system, one.name, q.name, user_turn(one, panel.formats, q), repeat, prefix)
        for one in panel.scaffolds
        if one.written
        for prefix in [opening(one, panel.formats)]
        for name, system in panel.personas.items()
        for q in panel.questions
    ]


def answer_requests(panel: ChoicePanel, adapter: str, rationales: pl.DataFrame, repeat: int = 0) -> list[Request]:
    """Step 2: the one token after the anchor, for every question of one pass over the panel.

    ``rationales`` are the samples of step 1. Raises ``EvaluationError`` naming one that is missing.
    """
    keys = rationales.filter(adapter=adapter, index=repeat).select(
        "question_set", "prompt_name", "question_name", "text"
    )
    texts = {(scaffold_name, name, question): text for scaffold_name, name, question, text in keys.iter_rows()}
    requests = []
    for one in panel.scaffolds:
        for name, system in panel.personas.items():
            for question in panel.questions:
                key = (one.name, name, question.name)
                if one.written and key not in texts:
                    raise EvaluationError(f"{adapter}: no rationale for {'/'.join(key)}; run the first step again")
                prefix = answer_prefix(one, panel.formats, texts[key] if one.written else "")
                user = user_turn(one, panel.formats, question)
                requests.append(Request(adapter, name, system, one.name + ANSWER, question.name, user, repeat, prefix))
    return requests


def letter_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, ...]]:
    """The single tokens that are a letter up to case and a blank before it, by letter.

    Raises ``EvaluationError`` for a letter that is no single token: its log-prob would be another kind of number.
    """
    tokens: dict[str, tuple[int, ...]] = {}
    for letter in LETTERS:
        spelled = (letter, letter.lower(), f" {letter}", f" {letter.lower()}")
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in spelled]
        tokens[letter] = tuple(dict.fromkeys(one[0] for one in ids if len(one) == 1))
        if not tokens[letter]:
            raise EvaluationError(
                f"letter {letter}: no single token of this tokenizer is it; the answer cannot be scored"
            )
    return tokens


def read_choices(
    panel: ChoicePanel,
    answers: pl.DataFrame,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    adapters: Mapping[str, Path],
) -> pl.DataFrame:
    """The letter of every answer token, with whether it is right.

    Args:
        answers: samples of step 2.

    Returns:
        Columns CHOICE_SCHEMA, in the order of the samples. ``letter`` is empty where none can be read, which counts as
        wrong; ``best`` is then the likeliest of the four at any probability; ``read_from`` says whether the letter is
        the token itself, the best log-prob, or nothing.

    Raises:
        EvaluationError: an answer to a question that is not in the panel.
    """
    right = {question.name: question.answer for question in panel.questions}
    unknown = sorted(set(answers["question_name"]) - right.keys())
    if unknown:
        raise EvaluationError(f"answers to {unknown[0]!r}, which is no question of the panel")
    letters = [letter_of(text) for text in answers["text"]]
    unread = [place for place, letter in enumerate(letters) if letter is None]
    scored = _scored(answers[unread], engine, tokenizer, adapters) if unread else []
    found = dict(zip(unread, scored, strict=True))
    rows = []
    for place, (row, token) in enumerate(zip(answers.iter_rows(named=True), letters, strict=True)):
        best, likely = (token, True) if token else found[place]
        letter = best if likely else None
        read_from: ReadFrom = "token" if token else "logprobs" if letter else "nothing"
        answer = right[row["question_name"]]
        scaffold_name = row["question_set"].removesuffix(ANSWER)
        key = (row["adapter"], scaffold_name, row["prompt_name"], row["question_name"], row["index"])
        rows.append((*key, letter, best, read_from, answer, letter == answer))
    return pl.DataFrame(rows, schema=CHOICE_SCHEMA, orient="row")


def _scored(
    answers: pl.DataFrame, engine: Engine, tokenizer: PreTrainedTokenizerBase, adapters: Mapping[str, Path]
) -> list[tuple[str, bool]]:
    """The letter with the best token (the first of letters that tie), and whether it is likely enough to be read."""
    tokens = [(letter, token) for letter, ids in letter_tokens(tokenizer).items() for token in ids]
    items = [
        ScoringItem(row["adapter"], prompt, (token,))
        for row in answers.iter_rows(named=True)
        for prompt in [tuple(chat_ids(tokenizer, row["system"], row["question"], prefix=row["prefix"]))]
        for _, token in tokens
    ]
    scores = [score for (score,) in engine.continuation_logprobs(items, adapters)]
    best = []
    for start in range(0, len(scores), len(tokens)):
        of_answer = scores[start : start + len(tokens)]
        place = max(range(len(tokens)), key=of_answer.__getitem__)
        best.append((tokens[place][0], of_answer[place] >= log(LEAST_SHARE)))
    return best


def noise_floor(choices: pl.DataFrame) -> pl.DataFrame:
    """How far a repeated evaluation of the same adapter comes out otherwise, for each adapter, scaffold and persona.

    Columns: adapter, scaffold, prompt_name, n (questions), changed (share whose letter differs between first and second
    pass), drift (accuracy of the second minus the first). No rows where nothing was repeated.
    """
    keys = ["adapter", "scaffold", "prompt_name", "question_name"]
    second = choices.filter(pl.col("repeat") == 1).select(*keys, second="letter", then="right")
    pairs = choices.filter(pl.col("repeat") == 0).join(second, on=keys, how="inner", maintain_order="left")
    return pairs.group_by("adapter", "scaffold", "prompt_name", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("n"),
        pl.col("letter").ne_missing(pl.col("second")).mean().alias("changed"),
        (pl.col("then").cast(pl.Int64) - pl.col("right").cast(pl.Int64)).mean().alias("drift"),
    )


def best_of_four(choices: pl.DataFrame) -> pl.DataFrame:
    """The same answers, in which one without a letter is the likeliest of the four."""
    return choices.with_columns(
        pl.col("best").alias("letter"), (pl.col("best") == pl.col("answer")).fill_null(value=False).alias("right")
    )


def noise_summary(floor: pl.DataFrame) -> pl.DataFrame:
    """All repeated evaluations together, from ``noise_floor``: what a repetition alone changes on average.

    Columns: adapters, answers, changed (share of answers), drift (mean of the changes of accuracy over adapters,
    scaffolds and personas, weighed by their questions), moved (mean of their absolute values), base_repeated (whether
    the untrained base is among them). One row, none where nothing was repeated.
    """
    if floor.is_empty():
        return pl.DataFrame(schema=NOISE_SCHEMA)
    weight = pl.col("n") / pl.col("n").sum()
    return floor.select(
        pl.col("adapter").n_unique().cast(pl.Int64).alias("adapters"),
        pl.col("n").sum().alias("answers"),
        (pl.col("changed") * weight).sum().alias("changed"),
        (pl.col("drift") * weight).sum().alias("drift"),
        (pl.col("drift").abs() * weight).sum().alias("moved"),
        (pl.col("adapter") == BASE).any().alias("base_repeated"),
    )


NOISE_SCHEMA = {
    "adapters": pl.Int64, "answers": pl.Int64, "changed": pl.Float64, "drift": pl.Float64, "moved": pl.Float64,
    "base_repeated": pl.Boolean,
}  # fmt: skip


def size_table(choices: pl.DataFrame) -> pl.DataFrame:
    """How much was asked of each adapter, counted on the answers of the untrained base, first pass.

    Columns: of ("every adapter"), questions, personas, scaffolds, answers. ``outcomes`` refuses an adapter that was
    asked anything else.
    """
    base = choices.filter(pl.col("repeat") == 0, pl.col("adapter") == BASE)
    return base.select(
        pl.lit("every adapter").alias("of"),
        pl.col("question_name").n_unique().cast(pl.Int64).alias("questions"),
        pl.col("prompt_name").n_unique().cast(pl.Int64).alias("personas"),
        pl.col("scaffold").n_unique().cast(pl.Int64).alias("scaffolds"),
        pl.len().cast(pl.Int64).alias("answers"),
    )


def answer_table(choices: pl.DataFrame) -> pl.DataFrame:
    """How each adapter answers under each scaffold, all personas together: collapse onto one letter, and failures.

    Columns: adapter, scaffold, n, accuracy, best_accuracy (where an answer without a letter is the likeliest of the
    four), modal_letter (empty where no answer was read), modal_share (of all
    answers; 0.25 is what four equal letters give), from_logprobs (share read by log-probs), unparsed (share without a
    letter).
    """
    counts = pl.col("letter").drop_nulls().value_counts(sort=True)
    return (
        choices.filter(pl.col("repeat") == 0)
        .group_by("adapter", "scaffold", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("n"),
            pl.col("right").mean().alias("accuracy"),
            (pl.col("best") == pl.col("answer")).fill_null(value=False).mean().alias("best_accuracy"),
            counts.struct.field("letter").first().alias("modal_letter"),
            (counts.struct.field("count").first() / pl.len()).fill_null(0.0).alias("modal_share"),
            (pl.col("read_from") == "logprobs").mean().alias("from_logprobs"),
            pl.col("letter").is_null().mean().alias("unparsed"),
        )
    )


@dataclass(frozen=True)
class SmokeGate:
    """Section 5: one adapter of the contradicting arm must lose at least this much before the others are trained."""

    source: str = "librarian"
    scaffold: str = PERSONA_COT.name
    questions: int = 200
    least_loss: float = 0.05


def smoke_loss(gate: SmokeGate, base: pl.DataFrame, trained: pl.DataFrame) -> float:
    """Accuracy of the base minus that of the adapter under the source's own prompt, on the questions both have.

    Raises ``EvaluationError`` where they have fewer in common than the gate asks for.
    """
    where = {"prompt_name": gate.source, "scaffold": gate.scaffold, "repeat": 0}
    pairs = base.filter(**where).join(trained.filter(**where), on="question_name", suffix="_trained")
    if pairs.height < gate.questions:
        raise EvaluationError(
            f"smoke gate: {pairs.height} questions of {gate.source} under {gate.scaffold}, needed {gate.questions}"
        )
    first = pairs.sort("question_name").head(gate.questions)
    lost = first.select(pl.col("right").cast(pl.Int64) - pl.col("right_trained").cast(pl.Int64)).to_series()
    return float(lost.sum()) / gate.questions
