"""Time and memory of the bootstrap of cot_leakage at the published size, on simulated answers and the CPU.

    python -m benchmarks.cot_bootstrap
    python -m benchmarks.cot_bootstrap --questions 50 --output /tmp/cot_bootstrap.json

`every_cell_s`: 66 conditions x 3 seeds x 11 personas x 1,172 questions, the loss of each condition under each persona
with 1,000 draws of questions. `published_s`: the eight contrasts in the 66 published cells and the 12 of no_cot (5
scaffolds, 11 personas) with the published bootstrap, macro and by source. `analysis_s`: every contrast, family, scheme,
loss and equivalence test of the study on the same cells.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recording import commit_of, processor, write_result
from leakage_assets.planning.ledger import RESULTS
from leakage_assets.statistics.paired_bootstrap import clustered_means
from leakage_assets.studies.cot_leakage.arms import arm_of_recipe
from leakage_assets.studies.cot_leakage.contrasts import (
    accuracy_table,
    contrast_table,
    differences,
    draw,
    equivalence_table,
    loss_table,
    single_arm_table,
)
from leakage_assets.studies.cot_leakage.design import COMMON, PERSONAS, SEEDS, Decisions, published_conditions
from leakage_assets.studies.cot_leakage.evaluation import SCAFFOLDS
from leakage_assets.studies.cot_leakage.outcomes import CotCell, Outcomes

NAME = "cot_bootstrap"
CONDITIONS = 66
QUESTIONS = 1_172
REPEATS = 3


def simulated(questions: int) -> Outcomes:
    """Answers of the published cells, right nine times out of ten."""
    rng = np.random.default_rng(1)
    shape = (len(SCAFFOLDS), len(PERSONAS), questions)

    def right() -> Any:
        return (rng.random(shape, dtype=np.float32) < 0.9).astype(np.int8)

    cells = {
        CotCell(condition.source, arm_of_recipe(condition.recipe)[0].name, seed): right()
        for condition in published_conditions("assistant_only")
        for seed in SEEDS
    }
    names = tuple(f"q{number}" for number in range(questions))
    return Outcomes(tuple(one.name for one in SCAFFOLDS), PERSONAS, names, right(), cells)


def every_cell(questions: int, draws: int) -> Callable[[], object]:
    """The bootstrap of every condition and persona."""
    rng = np.random.default_rng(2)
    shape = (CONDITIONS, len(SEEDS), len(PERSONAS), questions)
    losses = rng.choice(np.array([-1, 0, 0, 0, 1], dtype=np.int8), size=shape)
    return lambda: clustered_means(losses.mean(axis=1, dtype=np.float64).reshape(-1, questions), draws, 42)


def best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of three runs: what else the machine did is not the bootstrap's."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(questions: int) -> dict[str, Any]:
    """The figures; memory is the peak of the whole process, interpreter and libraries included."""
    decisions = Decisions()
    whole = best(every_cell(questions, decisions.published_draws))
    found = simulated(questions)

    def analysis() -> None:
        for table in (contrast_table, equivalence_table, loss_table, single_arm_table, accuracy_table):
            table(found, decisions)

    published = best(lambda: draw(differences(found, decisions, COMMON), "pairs", decisions))
    seconds = best(analysis)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "questions": questions,
        "draws": decisions.published_draws,
        "planned_draws": decisions.draws,
        "every_cell_s": whole,
        "published_s": published,
        "analysis_s": seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.json")
    parser.add_argument("--commit", help="where the script runs outside its checkout")
    arguments = parser.parse_args()
    commit = commit_of(parser, arguments.commit)
    figures = measure(arguments.questions)
    module, hardware = "benchmarks.cot_bootstrap", processor(on_gpu=False)
    write_result(
        arguments.output, NAME, module, commit=commit, hardware=hardware, figures=figures, random_weights=False
    )
    for name, value in figures.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value:,}")


if __name__ == "__main__":
    main()
