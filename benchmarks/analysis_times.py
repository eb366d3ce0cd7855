"""Time of every statistic of a study at its published size, on simulated scores and the CPU.

    python -m benchmarks.analysis_times
    python -m benchmarks.analysis_times --study trigger_leakage --output /tmp/analysis_times.json

The scores are those of the tests' planted worlds. Seconds are of the whole analysis, the quickest of three after one
that pays for what is imported at first use.

* marker_leakage: 5 sources x 111 personas at four layers, correlations clustered by persona with 10,000 permutations
  and 1,000 resamples, pooled and within sources; and the bootstrap of its centroids, 111 personas x 20 questions.
* source_rate: 12 sources x 3 seeds, four layers, every reference.
* trigger_leakage: 14 adapters of #207 and three of #208, 122,400 completions in 384 rows, 10,000 and 1,000
  permutations, with the rewrites and the continuations.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.recording import commit_of, processor, write_result
from leakage_assets.planning.ledger import RESULTS
from leakage_assets.statistics.centroid_bootstrap import QuestionCounts, centroid_bootstrap
from leakage_assets.statistics.pooled import CrossedPairs, persona_clustered
from leakage_assets.stimuli import load_stimuli
from leakage_assets.studies.source_rate import analysis as source_rate
from leakage_assets.studies.source_rate import design as source_rate_design
from leakage_assets.studies.trigger_leakage import analysis as trigger_leakage
from leakage_assets_tests.studies.source_rate import worlds as sources
from leakage_assets_tests.studies.trigger_leakage import worlds as triggers

NAME = "analysis_times"
REPEATS = 3
LAYERS = 4

Analysis = Callable[[], object]


def marker_leakage_correlations() -> Analysis:
    """Both rankings at every layer."""
    people = tuple(f"p{number}" for number in range(111))
    drawn = np.random.default_rng(0).normal(size=(LAYERS, 2, 5, 111))
    layers = [CrossedPairs(people[:5], people, *pair) for pair in drawn]
    return lambda: [persona_clustered(one, kind, seed=1) for one in layers for kind in ("pooled", "within_source")]


def marker_leakage_centroids() -> Analysis:
    """Resampled questions of centroids of the tiny model's width."""
    rng = np.random.default_rng(7)
    people = tuple(f"p{number}" for number in range(111))
    vectors = rng.normal(size=(111, 20, 192)).astype(np.float32)
    total = np.full((5, 111, 20), 10)
    counts = QuestionCounts(rng.binomial(total, 0.3), total)
    return lambda: centroid_bootstrap(people[:5], people, vectors, counts, seed=1)


def source_rate_tables() -> Analysis:
    """Every table of the study."""
    stimuli = load_stimuli()
    scale = sources.SCALE
    plan = source_rate_design.analysis_plan(scale, source_rate_design.planned_experiment(stimuli, scale))
    plan = replace(plan, layers=(10, 15, 20, 25), primary_layer=20)
    given = sources.planted_tables()
    cosines = pl.concat([given.cosines.with_columns(pl.col("layer") + shift) for shift in (0, 10)])
    given = replace(given, cosines=cosines)
    return lambda: source_rate.analyse(plan, given)


def trigger_leakage_tables() -> Analysis:
    """Every table of the study."""
    plan = triggers.plan_of(load_stimuli())
    once = {"T_task": (42,)}
    recipes = dict.fromkeys((plan.control_recipe, "rank16_low", "rank16_high", plan.gentle_recipe), once)
    headline = dict.fromkeys(plan.triggers, (42, 137, 256)) | {plan.persona: (42,)}
    design = triggers.Design({plan.headline_recipe: headline, **recipes})

    def rate(_recipe: str, source: object, prompt: object) -> float:
        return 0.9 if source == prompt else 0.2

    given = triggers.tables(
        plan,
        triggers.scores(plan, design, rate, seed=15),
        declarative=triggers.scores(plan, design, rate, seed=16, names=[name for _, name in plan.rewrites]),
        dissociation=triggers.continuations(plan, lambda *_: 0.5, seed=17),
    )
    if given.scores.height != 17 * 7_200:
        raise SystemExit(f"{given.scores.height} completions are not the published {17 * 7_200}")
    return lambda: trigger_leakage.analyse(plan, given)


PARTS: dict[str, dict[str, Callable[[], Analysis]]] = {
    "marker_leakage": {
        "marker_leakage_correlations_s": marker_leakage_correlations,
        "marker_leakage_centroids_s": marker_leakage_centroids,
    },
    "source_rate": {"source_rate_s": source_rate_tables},
    "trigger_leakage": {"trigger_leakage_s": trigger_leakage_tables},
}


def seconds(analysis: Analysis) -> float:
    """The quickest of a few, after one that is not counted."""
    analysis()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        analysis()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=PARTS, action="append", help="one study; may be repeated (all by default)")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.json")
    parser.add_argument("--commit", help="where the script runs outside its checkout")
    options = parser.parse_args()
    commit = commit_of(parser, options.commit)
    parts = {figure: make for study in options.study or PARTS for figure, make in PARTS[study].items()}
    figures = {figure: seconds(make()) for figure, make in parts.items()}
    write_result(
        options.output,
        NAME,
        "benchmarks.analysis_times",
        commit=commit,
        hardware=processor(on_gpu=False),
        figures=figures,
        random_weights=False,
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
