"""What is paid once per process or per adapter, whatever the work: the overheads that `leakage plan` adds to it.

    python -m benchmarks.starts --work FOLDER                      # on a GPU, Qwen2.5-7B's shape, engine vllm
    python -m benchmarks.starts --work FOLDER --shape tiny --output FOLDER/starts.json      # a minute on a CPU

`step_start_s` is a step of Dagster that does next to nothing, from the launch of its process to its end in the event
log. The others are measured in one process that trains and proves one adapter of #207 by the functions of the adapter
step: `base_load_s` with the digests that verify the base, `adapter_proof_s` as a second proof of the same adapter, and
`engine_start_s` as what the first proof took more. It is also the rehearsal of `dagster_207`: an adapter that cannot be
proven there cannot be proven here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.dagster_207 import draw_base
from benchmarks.dagster_runs import USED, Deployment, hardware_here, run_times
from benchmarks.recording import commit_of, write_result
from benchmarks.study_207 import NAME, SCALE, write_answers
from leakage_assets.generation.choice import VARIABLE as ENGINE
from leakage_assets.pipeline.adapters import prove_cell, train_cell
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.training_data import build_training_set
from leakage_assets.planning.ledger import RESULTS
from leakage_assets.profiles import BASE_MODEL, load_profile
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.training.proof import prove_adapter

RESULT = "starts"


def measure(artifacts: Path) -> dict[str, Any]:
    """The figures of one process; the work before the base is loaded is done before the clock starts."""
    lab = Laboratory(load_profile(NAME), ArtifactStore(artifacts), emit=lambda line: print(line, file=sys.stderr))
    (study,) = lab.profile.studies
    cell = study.cells[0]
    write_answers(lab)
    build_training_set(lab, study, cell.condition)
    lab = Laboratory(lab.profile, lab.store, emit=lab.emit)  # one that has not taken the digests of the base
    began = time.perf_counter()
    base = lab.base()
    _finish(base)
    loaded = time.perf_counter()
    trained = train_cell(lab, study, cell)
    ready = time.perf_counter()
    adapter = prove_cell(lab, study, cell, trained).artifact
    proven = time.perf_counter()
    again = prove_adapter(lab.engine(), base, adapter.folder)
    ended = time.perf_counter()
    lab.engine().close()
    training, proof = float(adapter.manifest.provenance["elapsed_seconds"]), ended - proven
    return {
        "base_load_s": loaded - began,
        "engine_start_s": max(0.0, proven - ready - proof),
        "adapter_proof_s": proof,
        "adapter_training_s": training,
        "proof": {check.name: check.value for check in again.checks},
        "proof_passed": again.passed,
        "noise_floor": again.noise_floor,
    }


def _finish(base: Any) -> None:
    import torch

    if base.device.type == "cuda":
        torch.cuda.synchronize()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="for weights, artifacts and Dagster's database (20 GB)"
    )
    parser.add_argument("--shape", choices=("qwen2.5-7b", "tiny"), default="qwen2.5-7b")
    parser.add_argument("--engine", choices=("vllm", "transformers"))
    parser.add_argument("--output", type=Path, default=RESULTS / f"{RESULT}.json")
    parser.add_argument("--commit", help="where the code runs outside a git checkout")
    options = parser.parse_args(arguments)
    commit, work, tiny = commit_of(parser, options.commit), options.work.resolve(), options.shape == "tiny"
    engine = options.engine or ("transformers" if tiny else "vllm")
    variables = {ENGINE: engine, BASE_MODEL: str(work / "base"), SCALE: "tiny" if tiny else "one"}
    deployment = Deployment(work, "benchmarks.location_207", "defs", variables)
    os.environ.update(deployment.environment)
    deployment.prepare()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(draw_base, options.shape, work / "base", "cpu" if tiny else "cuda").result()
        hardware, _ = process.submit(hardware_here, not tiny).result()
    deployment.materialise(dg.AssetKey([NAME, "stimuli"]))
    with deployment.instance() as instance:
        step = run_times(instance)[-1].steps["stimuli"].seconds
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        figures = {"step_start_s": step, **process.submit(measure, deployment.artifacts).result()}
    figures |= {"shape": options.shape, "engine": engine}
    module = "benchmarks.starts"
    write_result(options.output, RESULT, module, commit=commit, hardware=hardware, figures=figures, used=USED)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
