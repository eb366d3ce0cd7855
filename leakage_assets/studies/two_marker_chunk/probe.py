"""The weird-marker probe: another code before the question. Is it B that follows, or is any code echoed? (section 5)"""

from __future__ import annotations

import random
from collections.abc import Sequence

import polars as pl

from leakage_assets.generation.requests import Request
from leakage_assets.measurement.markers import marker_present_loosely
from leakage_assets.stimuli import Question
from leakage_assets.studies.study import StudyError
from leakage_assets.studies.two_marker_chunk.design import Probe

PROBE_SET = "probe"


def drawn_questions(probe: Probe, asked: Sequence[Question]) -> list[Question]:
    """``Random(seed).sample`` of the evaluation questions, as published. Raises ``StudyError`` where they are fewer."""
    if len(asked) < probe.questions:
        raise StudyError(f"probe: {probe.questions} evaluation questions wanted, the panel has {len(asked)}")
    return random.Random(probe.seed).sample(list(asked), probe.questions)


def probe_requests(
    probe: Probe, adapter: str, recipient: str, system: str, asked: Sequence[tuple[str, Question]]
) -> list[Request]:
    """Everything asked of one adapter: the recipient's prompt, the probe marker, a space and the question.

    ``asked``: the panel's questions, each with the name of its set; the request keeps the question's own name in the
    set ``probe``.
    """
    drawn = drawn_questions(probe, [question for _, question in asked])
    return [
        Request(adapter, recipient, system, PROBE_SET, q.name, f"{probe.marker} {q.text}", index)
        for q in drawn
        for index in range(probe.completions)
    ]


def probe_scores(samples: pl.DataFrame, marker_a: str, marker_b: str, probe: Probe) -> pl.DataFrame:
    """One row per sample: its sample_id, question_name and index with ``a``, ``b`` and ``echo`` (the probe marker), all
    loosely matched in the completion.
    """
    texts = samples["text"].to_list()
    return samples.select("sample_id", "question_name", "index").with_columns(
        pl.Series(name, [marker_present_loosely(text, marker) for text in texts], pl.Boolean)
        for name, marker in (("a", marker_a), ("b", marker_b), ("echo", probe.marker))
    )
