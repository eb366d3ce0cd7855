"""Time of the work of #207 through Dagster, from training sets to scores, on random weights of the exact shape.

    python -m benchmarks.dagster_207 --work FOLDER                     # on a GPU, Qwen2.5-7B's shape, engine vllm
    python -m benchmarks.dagster_207 --work FOLDER --limit 540         # stops by itself after 540 s ...
    python -m benchmarks.dagster_207 --work FOLDER --limit 540 --resume  # ... and goes on
    python -m benchmarks.dagster_207 --work FOLDER --shape tiny --output FOLDER/dagster_207.json   # a minute on a CPU

Two runs of the benchmark's code location (`location_207`), as a user starts them: training sets of 14 conditions, then
the study's job `cells` (adapters with their proofs, samples, scores). Before them, and not timed: weights are drawn
into a folder, the training answers are written, and `leakage plan` forecasts the work from the committed results.

`dagster_207_s` is the time between the first event of the first run and the last event of the scores in Dagster's
event log. Where the work was cut by --limit and resumed, it is the sum over the pieces, starts and repeated work
included, and `pieces` says how many there were. A result without `dagster_207_s` is of work that is not finished.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.dagster_runs import (
    USED,
    Deployment,
    OutOfTime,
    RunFailed,
    RunTimes,
    hardware_here,
    partition_metadata,
    run_times,
)
from benchmarks.random_base import random_spec
from benchmarks.recording import commit_of, write_result
from benchmarks.study_207 import NAME, SCALE, STUDY, write_answers
from leakage_assets.generation.choice import VARIABLE as ENGINE
from leakage_assets.models import load_base_model, write_base
from leakage_assets.partitions import partition_key
from leakage_assets.pipeline.forecasting import plan_study
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.planning.forecast import overhead, reference_forecasts
from leakage_assets.planning.ledger import RESULTS, read_ledger
from leakage_assets.profiles import BASE_MODEL, load_profile
from leakage_assets.store.artifacts import ArtifactStore

RESULT, FIGURE = "dagster_207", "dagster_207_s"
STEPS = ("training_set", "adapter", "samples", "scores")
STAGES = {"adapter": ("adapter", "adapter_proof"), "samples": ("samples",)}
"""The stages of `leakage plan` that each part does: `adapter` and `samples` are parts of one step."""
STARTS: Mapping[str, Mapping[str, int]] = {
    "training_set": {"step_start_s": 1},
    "adapter": {"step_start_s": 1, "base_load_s": 1, "engine_start_s": 1},
    "samples": {},
    "scores": {"step_start_s": 1},
}
"""What each part starts once; figures of the ledger."""
SETUP = "train_setup_s_per_adapter"
UNFINISHED = 75
"""Exit code: the time given was not enough."""


@dataclass(frozen=True)
class Prepared:
    """What was there before the first run: hardware as text, partition keys, and the forecast."""

    hardware: str
    conditions: tuple[str, ...]
    cells: tuple[str, ...]
    adapters: int
    completions: int
    forecast: dict[str, Any]


def draw_base(shape: str, folder: Path, device: str) -> None:
    """Random weights as a folder, unless they are there; a half-written folder has another name."""
    if folder.exists():
        return
    spec = random_spec(shape, "bfloat16" if device == "cuda" else "float32")
    part = folder.with_name(f"{folder.name}.part{os.getpid()}")
    write_base(load_base_model(spec, device), part).rename(folder)


def prepare(artifacts: Path, on_gpu: bool) -> Prepared:
    """Write the training answers and forecast what is left; in a process of its own, which frees the device."""
    lab = Laboratory(load_profile(NAME), ArtifactStore(artifacts))
    (study,) = lab.profile.studies
    write_answers(lab)
    hardware, known = hardware_here(on_gpu)
    forecast: dict[str, Any] = {"hardware": None if known is None else known.name}
    if known is not None:
        ledger = read_ledger(RESULTS)
        plan = plan_study(lab, study, study.cells, known, ledger)
        stages = {stage.stage.name: stage for stage in plan.stages}
        for step, starts in STARTS.items():
            parts: dict[str, float | None] = {name: stages[name].seconds for name in STAGES.get(step, ())}
            counts = {**starts, **({SETUP: len(study.cells)} if step == "adapter" else {})}
            parts |= {name: _total(overhead(name, count, ledger, known)) for name, count in counts.items()}
            # The first is most of the work; what else was never measured is named and counts nothing.
            unknown = any(parts[name] is None for name in STAGES.get(step, ())[:1])
            forecast[step] = {
                "parts_s": parts,
                "forecast_s": None if unknown else sum(seconds or 0.0 for seconds in parts.values()),
                "not_measured": [name for name, seconds in parts.items() if seconds is None],
            }
        forecast["reference_job_s"] = reference_forecasts(ledger, known).get(FIGURE)
        forecast["assumptions"] = list(plan.assumptions)
    return Prepared(
        hardware,
        tuple(condition.key for condition in study.conditions),
        tuple(str(partition_key(cell)) for cell in study.cells),
        len(study.cells),
        len(study.cells) * study.panel.size,
        forecast,
    )


def _total(part: Any) -> float | None:
    return None if part.seconds is None else float(part.total)


def pieces_of(runs: Sequence[RunTimes]) -> list[list[RunTimes]]:
    """Runs by piece of work: each begins with the training sets, and the last is the one whose scores succeeded."""
    pieces: list[list[RunTimes]] = []
    for run in runs:
        if "training_set" in run.steps or not pieces:
            pieces.append([])
        pieces[-1].append(run)
        if "scores" in run.succeeded:
            break
    return pieces


def measured(runs: Sequence[RunTimes]) -> dict[str, Any]:
    """The times of the event log, in seconds.

    `seconds` has each step from the launch of its process to its last event, summed over pieces, and what lies between
    and around the steps; together they are `pieces_s`.
    """
    pieces = pieces_of(runs)
    each = [piece[-1].whole.end - piece[0].whole.begin for piece in pieces]
    finished = bool(runs) and "scores" in pieces[-1][-1].succeeded
    if finished:  # to the last score, not to the end of the run
        each[-1] = pieces[-1][-1].steps["scores"].end - pieces[-1][0].whole.begin
    counted = [run for piece in pieces for run in piece]
    steps = {name: sum(run.steps[name].seconds for run in counted if name in run.steps) for name in STEPS}
    launches = [seconds for run in counted for seconds in run.launches]
    return {
        **({FIGURE: sum(each)} if finished else {}),
        "finished": finished,
        "pieces": len(pieces),
        "pieces_s": each,
        "runs": len(counted),
        "seconds": {**steps, "between_steps": sum(each) - sum(steps.values())},
        "step_launch_s": sum(launches) / len(launches) if launches else None,
    }


def achieved(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the newest materialisations of every partition tell."""
    adapters, samples = (
        partition_metadata(instance, dg.AssetKey([NAME, STUDY, name])) for name in ("adapter", "samples")
    )
    completions = sum(one["samples"] for one in samples.values())
    tokens = sum(one["samples"] * one["mean_tokens"] for one in samples.values())
    rates = {
        f"samples_{name}": one[name]
        for one in list(samples.values())[:1]  # the rates of a stream are the same for every cell in it
        for name in ("tokens_per_s", "model_flop_utilisation", "share_of_limit")
        if name in one
    }
    trained = [one["seconds"] for one in adapters.values() if "seconds" in one]
    return {
        "adapters": len(adapters),
        "training_s": sum(trained),
        "completions": completions,
        "completion_tokens": round(tokens),
        "mean_new_tokens": tokens / completions if completions else None,
        **rates,
    }


def compare(forecast: Mapping[str, Any], times: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Forecast and measured seconds of each step and of the whole; their ratio is null where there is no forecast."""
    rows = [(step, forecast.get(step, {}).get("forecast_s"), times["seconds"][step]) for step in STEPS]
    known = [seconds for _, seconds, _ in rows]
    rows.append(("all", None if None in known else sum(known), sum(times["pieces_s"])))
    rows.append(("reference job", forecast.get("reference_job_s"), sum(times["pieces_s"])))
    return [
        {
            "step": step,
            "forecast_s": expected,
            "measured_s": took,
            "measured_over_forecast": took / expected if expected else None,
            "within_30_percent": abs(took / expected - 1) <= 0.3 if expected else None,
        }
        for step, expected, took in rows
    ]


def result_figures(deployment: Deployment, prepared: Prepared, engine: str) -> dict[str, Any]:
    """Everything the result holds."""
    with deployment.instance() as instance:
        times, found = measured(run_times(instance)), achieved(instance)
    how = "given: mean 200, at most 256" if engine == "vllm" else "as the model ends them"
    if (found["adapters"], found["completions"]) != (prepared.adapters, prepared.completions):
        times |= {"finished": False}
        times.pop(FIGURE, None)
    return {
        **times,
        **found,
        "engine": engine,
        "lengths_of_answers": how,
        "forecast": prepared.forecast,
        "forecast_and_measured": compare(prepared.forecast, times),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, run, and write what the event log says, also of work that was cut or failed.

    The exit code is 0 when all is done, UNFINISHED when time was over, 1 for a run that failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    tiny = options.shape == "tiny"
    engine = options.engine or ("transformers" if tiny else "vllm")
    device = "cpu" if tiny else "cuda"
    commit, work = commit_of(parser, options.commit), options.work.resolve()
    deadline = time.monotonic() + options.limit
    scale = "tiny" if tiny else "full"
    variables = {ENGINE: engine, BASE_MODEL: str(work / "base"), SCALE: scale}
    deployment = Deployment(work, "benchmarks.location_207", "defs", variables)
    if (work / "home").exists() and not options.resume:
        raise SystemExit(f"{work} holds earlier work: --resume goes on with it, another folder starts anew")
    os.environ.update(deployment.environment)
    deployment.prepare()
    kept = work / "prepared.json"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(draw_base, options.shape, work / "base", device).result()
        prepared = process.submit(prepare, deployment.artifacts, not tiny).result()
    if kept.exists():  # the forecast that counts was made before anything was done
        prepared = Prepared(**json.loads(kept.read_text()))
    else:
        kept.write_text(json.dumps(vars(prepared)))
    code = 0
    try:
        key = dg.AssetKey([NAME, STUDY, "training_set"])
        deployment.materialise(key, prepared.conditions, deadline=deadline)
        deployment.job(f"{STUDY}_cells", prepared.cells, deadline=deadline)
    except (OutOfTime, RunFailed) as error:
        print(error, file=sys.stderr)
        code = UNFINISHED if isinstance(error, OutOfTime) else 1
    figures = result_figures(deployment, prepared, engine)
    figures |= {"shape": options.shape, "scale": scale}
    write_result(
        options.output,
        RESULT,
        "benchmarks.dagster_207",
        commit=commit,
        hardware=prepared.hardware,
        figures=figures,
        used=USED,
    )
    print(json.dumps(figures, indent=2))
    return code or int(not figures["finished"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="for weights, artifacts and Dagster's database (20 GB)"
    )
    parser.add_argument("--shape", choices=("qwen2.5-7b", "tiny"), default="qwen2.5-7b")
    parser.add_argument("--engine", choices=("vllm", "transformers"))
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which the work is cut")
    parser.add_argument("--resume", action="store_true", help="go on with the work in the folder")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{RESULT}.json")
    parser.add_argument("--commit", help="where the code runs outside a git checkout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
