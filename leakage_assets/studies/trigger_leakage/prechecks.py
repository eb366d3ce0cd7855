"""Checks before anything is trained: are the axes told apart, and are the prompts what their bucket says?

Section 6 (collinearity, overlap), section 2.1 (paraphrases and bystanders, and the empty prompt as an explicit empty
turn) and section 3.4 (training questions that resemble evaluation questions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from leakage_assets.geometry.centroids import centred_cosine
from leakage_assets.geometry.prompt_axes import (
    LEXICAL,
    SEMANTIC,
    STRUCTURAL,
    TASK,
    lexical_jaccard,
    semantic_cosines,
    text_axis,
)
from leakage_assets.statistics.correlation import correlate_rows, ranks
from leakage_assets.statistics.resampling import Floats
from leakage_assets.studies.prechecks import Outcome, Precheck, PrecheckInputs, template_additions
from leakage_assets.studies.shared_answers import shared
from leakage_assets.studies.study import Study
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets.studies.trigger_leakage.panel import BYSTANDER, NO_FAMILY, PanelPrompt

BLOCKING_RHO, WARNING_RHO = 0.8, 0.6
MOST_OVERLAP = 0.7
PARAPHRASE_OVERLAP, PARAPHRASE_LENGTH = 0.5, 0.5
BYSTANDER_OVERLAP = 0.3
"""Ours: the sheet asks for bystanders that are far in topic, and shared function words alone reach 0.2."""

QUESTION_COSINE, QUESTION_SHARE = 0.85, 0.30


def prechecks(study: Study, inputs: PrecheckInputs) -> tuple[Precheck, ...]:
    """Every check of the study, of the base model's primary layer where it is asked."""
    plan = study.plan_as(TriggerPlan)
    names, layer = [p.name for p in plan.prompts], plan.primary_layer
    semantic = semantic_cosines(inputs.system_turns(layer), names, repeated=study.counted_twice)
    trained, asked = shared(study).asked(inputs.stimuli), study.questions(inputs.stimuli)
    writer = inputs.stimuli.prompt(shared(study).writer)
    vectors = inputs.question_vectors(writer, [q.text for q in (*trained, *asked)], layer)
    return (
        *panel_prechecks(plan.prompts, axis_matrices(plan.prompts, semantic)),
        question_overlap(vectors[: len(trained)], vectors[len(trained) :], [q.name for q in (*trained, *asked)]),
        template_additions({p.name: p.text for p in plan.prompts}, inputs.rendered),
    )


def axis_matrices(prompts: Sequence[PanelPrompt], semantic: Floats) -> dict[str, Floats]:
    """Each axis over all pairs of prompts, (P, P); ``semantic`` are the cosines of ``prompt_axes.semantic_cosines``."""
    described = [(p.text, p.family if p.family != NO_FAMILY else None) for p in prompts]
    text = {
        axis: np.array([[text_axis(axis, a, b) for b in described] for a in described])
        for axis in (LEXICAL, STRUCTURAL, TASK)
    }
    return {SEMANTIC: semantic, **text}


def panel_prechecks(prompts: Sequence[PanelPrompt], axes: Mapping[str, Floats]) -> tuple[Precheck, ...]:
    """Every check of the panel; nothing may be trained while one of them is ``block``."""
    return (*collinearity(axes), overlap(prompts), *wordings(prompts))


def collinearity(axes: Mapping[str, Floats]) -> Iterator[Precheck]:
    """Spearman of every two axes over the pairs of prompts (630 for 36): above 0.8 blocks, above 0.6 warns.

    An axis that does not vary over the pairs can tell nothing and blocks.
    """
    upper = np.triu_indices(len(next(iter(axes.values()))), k=1)
    ranked = {name: ranks(matrix[upper]) for name, matrix in axes.items()}
    for one, other in combinations(axes, 2):
        name = f"spearman of {one} and {other}"
        rho = float(correlate_rows(ranked[one], ranked[other]))
        if np.isnan(rho):
            flat = one if np.ptp(ranked[one]) == 0 else other
            yield Precheck(name, None, BLOCKING_RHO, "block", f"{flat} does not vary over the pairs of prompts")
            continue
        outcome: Outcome = "block" if abs(rho) > BLOCKING_RHO else "warn" if abs(rho) > WARNING_RHO else "ok"
        limit = BLOCKING_RHO if outcome == "block" else WARNING_RHO
        yield Precheck(name, rho, limit, outcome, f"over {len(upper[0])} pairs of prompts")


def overlap(prompts: Sequence[PanelPrompt]) -> Precheck:
    """The largest Jaccard overlap of two prompts: above 0.7 warns."""
    pairs = list(combinations(prompts, 2))
    shared = [lexical_jaccard(a.text, b.text) for a, b in pairs]
    worst = int(np.argmax(shared))
    a, b = pairs[worst]
    outcome: Outcome = "warn" if shared[worst] > MOST_OVERLAP else "ok"
    return Precheck("largest lexical overlap", shared[worst], MOST_OVERLAP, outcome, f"{a.name} and {b.name}")


def wordings(prompts: Sequence[PanelPrompt]) -> Iterator[Precheck]:
    """Paraphrases: overlap with the original below 0.5, length within 50% of it. Bystanders: overlap with the trigger
    they must be far from below 0.3. A prompt that is not so blocks.
    """
    by_name = {prompt.name: prompt for prompt in prompts}
    for prompt in prompts:
        if prompt.reference is None:
            continue
        original = by_name[prompt.reference]
        shared = lexical_jaccard(prompt.text, original.text)
        limit = BYSTANDER_OVERLAP if prompt.bucket == BYSTANDER else PARAPHRASE_OVERLAP
        within: Outcome = "ok" if shared < limit else "block"
        yield Precheck(f"overlap of {prompt.name}", shared, limit, within, f"with {original.name}")
        if prompt.bucket == BYSTANDER:
            continue
        longer = abs(len(prompt.text.split()) / len(original.text.split()) - 1)
        alike: Outcome = "ok" if longer <= PARAPHRASE_LENGTH else "block"
        yield Precheck(f"length of {prompt.name}", longer, PARAPHRASE_LENGTH, alike, f"relative to {original.name}")


def question_overlap(trained: NDArray[np.float32], asked: NDArray[np.float32], names: Sequence[str]) -> Precheck:
    """Share of training questions whose vector has a cosine above 0.85 with one of an evaluation question.

    ``trained`` (T, D) and ``asked`` (E, D) are centred together; ``names`` are those of the T and then the E questions.
    More than 30% blocks (section 3.4).
    """
    cosines = centred_cosine(np.concatenate([trained, asked]), names)[: len(trained), len(trained) :]
    close = cosines.max(axis=1) > QUESTION_COSINE
    share = float(close.mean())
    listed = ", ".join(name for name, near in zip(names, close, strict=False) if near)
    outcome: Outcome = "block" if share > QUESTION_SHARE else "ok"
    return Precheck("training questions like an evaluation question", share, QUESTION_SHARE, outcome, listed or "none")
