"""A code location with the small study under two seeds, for Dagster processes and runs under test.

Artifacts go to LEAKAGE_ARTIFACTS. Where LEAKAGE_TRAINING_HOOK names a folder, every step begun is noted in its file
``steps`` and every training begun in its file ``trained``. Training of the condition named in its file ``fail`` fails;
that of the condition named in its file ``kill`` kills the step, once. With a file ``meet`` a training goes on only when
one of another step has begun too.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg

from leakage_assets.definitions import definitions
from leakage_assets.pipeline import adapters
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.profiles import PROFILES, Profile, load_profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.stimuli import Stimuli
from leakage_assets.training.train import TrainingError
from leakage_assets_tests.small_study import small_profile

NAME = "small"
SEEDS = (42, 137)
HOOK = "LEAKAGE_TRAINING_HOOK"
MEETING_SECONDS = 120.0


def two_seeds(stimuli: Stimuli) -> Profile:
    """The small profile under a name of its own, with a seed more."""
    profile = small_profile(stimuli=stimuli)
    return replace(profile, name=NAME, studies=tuple(replace(study, seeds=SEEDS) for study in profile.studies))


def hook_steps(folder: Path) -> None:
    """Note every step of this process and the devices it was given."""
    original = LaboratoryResource.open

    def open_laboratory(self: LaboratoryResource, context: dg.AssetExecutionContext) -> Laboratory:
        facts = {
            "step": context.op_def.name,
            "run": context.run.run_id,
            "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        with (folder / "steps").open("a") as file:
            file.write(json.dumps(facts) + "\n")
        return original(self, context)

    LaboratoryResource.open = open_laboratory  # type: ignore[method-assign]


def meet(folder: Path) -> None:
    """Wait for a training of another process. Raises ``TimeoutError``."""
    (folder / f"here-{os.getpid()}").touch()
    deadline = time.monotonic() + MEETING_SECONDS
    while len(list(folder.glob("here-*"))) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no other training within {MEETING_SECONDS} s")
        time.sleep(0.1)


def hook_training(folder: Path) -> None:
    """Note every training of this process, and do to it what the folder's files say."""
    original = adapters.train_adapter

    def train_adapter(base: Any, rows: Any, recipe: Any, seed: int, draft: Path, **kwargs: Any) -> Any:
        condition, cell_seed = draft.parts[-3:-1]
        with (folder / "trained").open("a") as file:
            file.write(f"{condition}|{cell_seed}\n")
        if (folder / "meet").exists():
            meet(folder)
        kill = folder / "kill"
        if kill.exists() and kill.read_text() == condition:
            kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        fail = folder / "fail"
        if fail.exists() and fail.read_text() == condition:
            raise TrainingError(f"{condition}: broken by the test")
        return original(base, rows, recipe, seed, draft, **kwargs)

    adapters.train_adapter = train_adapter


PROFILES[NAME] = two_seeds
if HOOK in os.environ:
    hook_steps(Path(os.environ[HOOK]))
    hook_training(Path(os.environ[HOOK]))
defs = definitions(load_profile(NAME))


def cells() -> dg.JobDefinition:
    """The job over cells, where other processes find it."""
    return defs.get_repository_def().get_job("marker_leakage_cells")


def foundations() -> dg.JobDefinition:
    """The job over what every cell needs, where other processes find it."""
    return defs.get_repository_def().get_job("marker_leakage_foundations")
