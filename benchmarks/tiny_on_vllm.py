"""The tiny profile on vLLM against the same cells on the transformers engine, both through Dagster.

    python -m benchmarks.tiny_on_vllm --work FOLDER                      # both halves, then the comparison
    python -m benchmarks.tiny_on_vllm --work FOLDER --half transformers  # the first half alone: no GPU, no vLLM
    python -m benchmarks.tiny_on_vllm --work FOLDER --half vllm          # the second, and the comparison
    python -m benchmarks.tiny_on_vllm --work FOLDER --cut --output FOLDER/tiny_on_vllm.json   # small: minutes on a CPU

Five sources under `full_completion` and under `no_marker`, seed 42: ten cells of 2,220 answers. The first half is the
study as the tiny profile runs it, on the CPU. The second half runs with LEAKAGE_ENGINE=vllm and serves the *same*
adapters: the training answers and the adapters of the first half are taken into its artifact store (the training sets
are assembled anew, and must come out equal), then Dagster proves every adapter on vLLM, samples and scores.

Why the same adapters: what is asked is whether vLLM says what transformers says, and for that alone binomial noise is
the right measure. Halves that trained their own adapters would differ by their training as well (other answers to train
on, other rounding on another device), which moves rates by more than binomial noise and would hide an engine that
is slightly wrong, or be mistaken for one.

The exit code is 0 only where the halves agree: rates (see `agreement`), verdicts of the analysis, and every proof. With
--cut the verdicts are shown but do not count: a source's rate rests on ten answers there, and falls on either side of
the plan's thresholds by chance.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from benchmarks.agreement import CELL, agreement, joined
from benchmarks.dagster_runs import USED, Deployment, hardware_here, machine, run_times
from benchmarks.recording import commit_of, write_result
from leakage_assets.executor.leases import CPU, visible_devices
from leakage_assets.generation.choice import VARIABLE as ENGINE
from leakage_assets.partitions import partition_key
from leakage_assets.pipeline.adapters import adapter_address, adapter_identity
from leakage_assets.pipeline.conclusions import SCORES, analysis_tables
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.training_data import (
    on_policy_job,
    read_rows,
    require_training_set,
    training_set_address,
)
from leakage_assets.planning.ledger import RESULTS
from leakage_assets.profiles import load_profile
from leakage_assets.store.artifacts import Artifact, ArtifactMissing, ArtifactStore
from leakage_assets.store.samples import Sample, SampleStore
from leakage_assets.studies.study import Cell, Condition, Study

RESULT = "tiny_on_vllm"
HALVES = ("transformers", "vllm")
RECIPES = ("full_completion", "no_marker")
SEED = 42
STUDY = "marker_leakage"
TAKEN = "taken_from"


class Different(Exception):
    """The second half would not serve what the first one trained."""


@dataclass(frozen=True)
class Place:
    """The code location and profile of both halves."""

    profile: str
    module: str
    attribute: str

    def half(self, folder: Path, engine: str) -> Deployment:
        """The deployment of one half; the one of transformers never sees a GPU."""
        devices = {"LEAKAGE_DEVICES": ""} if engine == "transformers" else {}
        return Deployment(folder / engine, self.module, self.attribute, {ENGINE: engine, **devices})

    def laboratory(self, artifacts: Path) -> Laboratory:
        """Where a half's artifacts are read and taken in; the engine is that of the environment."""
        if self.module not in sys.modules:
            __import__(self.module)  # registers its profile
        return Laboratory(load_profile(self.profile), ArtifactStore(artifacts))


WHOLE = Place("tiny", "leakage_assets.definitions", "tiny")
CUT = Place("tiny_cut", "benchmarks.location_tiny_cut", "defs")


def conditions(study: Study) -> list[Condition]:
    """Those compared: a contiguous stretch of the study's, as a run takes a range."""
    return [condition for condition in study.conditions if condition.recipe in RECIPES]


def cells(study: Study) -> list[Cell]:
    return [Cell(condition, SEED) for condition in conditions(study)]


def run_half(place: Place, deployment: Deployment, reference: Path | None) -> None:
    """Everything from the base model to the analysis.

    Args:
        reference: artifacts of the half whose training answers and adapters are taken; None to make them.
    """
    lab = place.laboratory(deployment.artifacts)
    study = lab.profile.study(STUDY)
    keys = [condition.key for condition in conditions(study)]
    deployment.job(f"{STUDY}_foundations")
    if reference is None:
        answers = dg.AssetKey([place.profile, "on_policy_completions"])
        deployment.materialise(answers, [pool.name for pool in study.data.pools])
    else:
        in_process_of_its_own(deployment, take_answers, place, reference, deployment.artifacts)
    deployment.materialise(dg.AssetKey([place.profile, STUDY, "training_set"]), keys)
    if reference is not None:
        in_process_of_its_own(deployment, take_adapters, place, reference, deployment.artifacts)
    deployment.job(f"{STUDY}_cells", [str(partition_key(cell)) for cell in cells(study)])
    deployment.materialise(dg.AssetKey([place.profile, STUDY, "analysis"]))


def in_process_of_its_own(deployment: Deployment, work: Any, *given: Any) -> Any:
    """What `work` gives in a half's environment, in a process that ends."""
    before = dict(os.environ)
    os.environ.update(deployment.environment)
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(work, *given).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def newest(lab: Laboratory, address: tuple[str, ...]) -> Artifact:
    """The version made last, by whatever engine and libraries. Raises ArtifactMissing."""
    if not (found := lab.store.history(address)):
        raise ArtifactMissing(f"{lab.store.root.joinpath(*address)}: nothing is finished there; run that half first")
    return found[-1]


def take_answers(place: Place, reference: Path, artifacts: Path) -> None:
    """Give this store the training answers of another one, as if this engine had said them."""
    theirs, ours = place.laboratory(reference), place.laboratory(artifacts)
    answers = ours.profile.study(STUDY).data
    for pool in answers.pools:
        job = on_policy_job(ours, answers, pool.name)
        if job.current() is not None:
            continue
        made = newest(theirs, job.address)
        shards = SampleStore(reference / made.manifest.provenance["shards"]).frame()
        present = job.store.ids()
        samples = [Sample(**row) for row in shards.iter_rows(named=True) if row["sample_id"] not in present]
        if samples:
            job.store.append(samples)
        job.finish({TAKEN: made.manifest.digest})


def take_adapters(place: Place, reference: Path, artifacts: Path) -> None:
    """Give this store the adapters of another one, byte for byte.

    Raises:
        Different: they were trained on other rows.
    """
    theirs, ours = place.laboratory(reference), place.laboratory(artifacts)
    study = ours.profile.study(STUDY)
    for cell in cells(study):
        rows = read_rows(require_training_set(ours, study, cell.condition))
        if rows != read_rows(newest(theirs, training_set_address(theirs, study, cell.condition))):
            raise Different(f"{cell}: its training set is another than that of {reference}")
        address, identity = adapter_address(ours, study, cell), adapter_identity(ours, study, cell)
        if ours.find(address, identity) is not None:
            continue
        made = newest(theirs, address)
        with ours.store.draft(address, identity, provenance={TAKEN: made.manifest.digest}) as draft:
            for name in made.manifest.files:
                target = draft.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made.folder / name, target)


def scores(lab: Laboratory, study: Study) -> pl.DataFrame:
    """Every answer of the compared cells."""
    return pl.concat(
        pl.read_parquet(
            newest(lab, lab.address(study, "scores", cell.condition.key, str(cell.seed))).folder / SCORES
        ).with_columns(
            pl.lit(value).alias(name)
            for name, value in zip(CELL, (cell.condition.source, cell.condition.recipe, cell.seed), strict=True)
        )
        for cell in cells(study)
    )


def proofs(lab: Laboratory, study: Study) -> Iterator[dict[str, Any]]:
    """What the proof of each cell found."""
    for cell in cells(study):
        made = newest(lab, lab.address(study, "adapter_proof", cell.condition.key, str(cell.seed)))
        proof, engine = json.loads((made.folder / "proof.json").read_text()), made.manifest.identity["engine"]
        yield {
            "cell": str(cell),
            "engine": engine if isinstance(engine, dict) else {"name": engine},
            "noise_floor": proof["noise_floor"],
            "passed": all(check["passed"] for check in proof["checks"]),
            **{check["name"]: check["value"] for check in proof["checks"]},
        }


def verdicts(lab: Laboratory, study: Study) -> dict[str, dict[str, Any]]:
    """Verdict and estimate of every hypothesis of the plan."""
    table = analysis_tables(newest(lab, lab.address(study, "analysis")))["verdicts"]
    return {
        row["hypothesis"]: {"claim": row["claim"], "verdict": row["verdict"], "estimate": row["estimate"]}
        for row in table.iter_rows(named=True)
    }


def compare(place: Place, folders: Mapping[str, Path]) -> dict[str, Any]:
    """The figures: rates, verdicts and proofs of both halves."""
    labs = {engine: place.laboratory(folder) for engine, folder in folders.items()}
    study = labs["vllm"].profile.study(STUDY)
    one, other = (scores(labs[engine], study) for engine in HALVES)
    rates = agreement(joined(one, other))
    proven = list(proofs(labs["vllm"], study))
    told = {engine: verdicts(lab, study) for engine, lab in labs.items()}
    conclusions = [
        {
            "hypothesis": name,
            "claim": told["vllm"][name]["claim"],
            **{f"{key}_{engine}": told[engine][name][key] for engine in HALVES for key in ("verdict", "estimate")},
        }
        for name in told["vllm"]
    ]
    same = all(row["verdict_transformers"] == row["verdict_vllm"] for row in conclusions)
    passed = all(proof["passed"] and proof["engine"]["name"] == "vllm" for proof in proven)
    return {
        "one_is": "transformers",
        "other_is": "vllm",
        "same_conclusions": same,
        "rates_agree": rates["agree"],
        "proofs_passed": passed,
        "all_agree": same and passed and rates["agree"],
        "verdicts": conclusions,
        "proofs": proven,
        "rates": rates,
    }


def seconds(deployment: Deployment) -> dict[str, float]:
    """Of each step of the half, from the event log."""
    with deployment.instance() as instance:
        runs = run_times(instance)
    return {name: span.seconds for run in runs for name, span in run.steps.items() if name in run.succeeded}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; where both halves are there, compare them and write the result."""
    parser = _parser()
    options = parser.parse_args(arguments)
    commit, work, place = commit_of(parser, options.commit), options.work.resolve(), CUT if options.cut else WHOLE
    halves = {engine: place.half(work, engine) for engine in HALVES}
    told = work / "transformers" / "machine.json"
    if options.half in (None, "transformers"):
        run_half(place, halves["transformers"], None)
        told.write_text(json.dumps(machine()))
    if options.half == "transformers":
        pack(halves["transformers"], work / "transformers.tar.gz")
        return 0
    if not halves["transformers"].artifacts.is_dir():
        unpack(work / "transformers.tar.gz", work)
    run_half(place, halves["vllm"], halves["transformers"].artifacts)
    on_gpu = visible_devices() != (CPU,)
    hardware, _ = in_process_of_its_own(halves["vllm"], hardware_here, on_gpu)
    figures = {
        "profile": place.profile,
        "required": ["rates_agree", "proofs_passed", *([] if options.cut else ["same_conclusions"])],
        "transformers_on": json.loads(told.read_text()),
        "vllm_on": hardware,
        "transformers_s": seconds(halves["transformers"]) if halves["transformers"].home.is_dir() else None,
        "vllm_s": seconds(halves["vllm"]),
        **compare(place, {engine: half.artifacts for engine, half in halves.items()}),
    }
    write_result(
        options.output,
        RESULT,
        "benchmarks.tiny_on_vllm",
        commit=commit,
        hardware=hardware,
        figures=figures,
        used=USED,
        random_weights=False,
    )
    print(json.dumps({name: value for name, value in figures.items() if name != "rates"}, indent=2))
    return 0 if all(figures[name] for name in figures["required"]) else 1


def pack(half: Deployment, archive: Path) -> None:
    """One file with what the other half needs, for another host."""
    with tarfile.open(archive, "w:gz") as packed:
        for name in ("artifacts", "home", "machine.json"):
            packed.add(half.folder / name, f"transformers/{name}")


def unpack(archive: Path, folder: Path) -> None:
    """The inverse of `pack`; ends the script where there is no such file."""
    if not archive.is_file():
        raise SystemExit(f"neither {folder / 'transformers'} nor {archive}: run --half transformers first")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="for artifacts and Dagster's databases of both halves")
    parser.add_argument("--half", choices=HALVES, help="only this one; both by default")
    parser.add_argument("--cut", action="store_true", help="two sources, eight personas, five questions")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{RESULT}.json")
    parser.add_argument("--commit", help="where the code runs outside a git checkout")
    return parser


if __name__ == "__main__":
    sys.exit(main())
