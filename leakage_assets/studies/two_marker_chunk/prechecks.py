"""What must hold before anything is trained: the markers' tokens, prompts as written, a silent base (sections 2, 5)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from leakage_assets.studies.prechecks import Outcome, Precheck, PrecheckInputs, template_additions
from leakage_assets.studies.study import Study
from leakage_assets.studies.two_marker_chunk.design import planned
from leakage_assets.studies.two_marker_chunk.tokens import Encode, token_prechecks

BASE_FLOOR = 0.01


def prechecks(study: Study, inputs: PrecheckInputs) -> tuple[Precheck, ...]:
    """Every check of the study; nothing may be trained while one of them is ``block``."""
    prompts = {name: inputs.stimuli.prompt(name) for name in study.panel.prompts}
    return (
        *marker_tokens(study, inputs.encode, inputs.end_of_turn),
        template_additions(prompts, inputs.rendered),
        *floor_prechecks(inputs.base_scores),
    )


def marker_tokens(study: Study, encode: Encode, end_of_turn: int) -> Sequence[Precheck]:
    """Those that need only the tokenizer, see ``tokens.token_prechecks``."""
    experiment = planned(study)
    a, b = experiment.markers
    return tuple(token_prechecks(encode, end_of_turn, a=a, b=b, probe=experiment.probe.marker))


def floor_prechecks(scores: pl.DataFrame) -> tuple[Precheck, ...]:
    """Blocks where either marker is in more than 1% of the base model's completions, or where there are none.

    ``scores``: as ``measurement.marker_pairs.pair_score_frame``. The published check had 33 completions.
    """
    checks = []
    for name, column in (("base rate of A", "loose_a"), ("base rate of B", "loose_b")):
        total, found = scores.height, int(scores[column].sum())
        if not total:
            checks.append(Precheck(name, None, BASE_FLOOR, "block", "no completions of the base model"))
            continue
        outcome: Outcome = "block" if found / total > BASE_FLOOR else "ok"
        checks.append(Precheck(name, found / total, BASE_FLOOR, outcome, f"{found} of {total} completions"))
    return tuple(checks)
