"""What must hold of the base model before anything is trained: it says neither marker (section 5)."""

from __future__ import annotations

import polars as pl

from leakage_assets.studies.prechecks import Outcome, Precheck

BASE_FLOOR = 0.01


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
