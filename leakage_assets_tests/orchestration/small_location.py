"""A code location with the small study under two seeds, for Dagster processes and runs under test.

Artifacts go to LEAKAGE_ARTIFACTS. Where LEAKAGE_TRAINING_HOOK names a folder, every training begun is noted in its file
``trained``, and training of the condition named in its file ``fail`` fails.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from leakage_assets.definitions import definitions
from leakage_assets.pipeline import adapters
from leakage_assets.profiles import PROFILES, Profile, load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.training.train import TrainingError
from leakage_assets_tests.small_study import small_profile

NAME = "small"
SEEDS = (42, 137)
HOOK = "LEAKAGE_TRAINING_HOOK"


def two_seeds(stimuli: Stimuli) -> Profile:
    """The small profile under a name of its own, with a seed more."""
    profile = small_profile(stimuli=stimuli)
    return replace(profile, name=NAME, studies=tuple(replace(study, seeds=SEEDS) for study in profile.studies))


def hook_training(folder: Path) -> None:
    """Note every training of this process, and let the one fail that the folder's file ``fail`` names."""
    original = adapters.train_adapter

    def train_adapter(base: Any, rows: Any, recipe: Any, seed: int, draft: Path, **kwargs: Any) -> Any:
        condition, cell_seed = draft.parts[-3:-1]
        with (folder / "trained").open("a") as file:
            file.write(f"{condition}|{cell_seed}\n")
        fail = folder / "fail"
        if fail.exists() and fail.read_text() == condition:
            raise TrainingError(f"{condition}: broken by the test")
        return original(base, rows, recipe, seed, draft, **kwargs)

    adapters.train_adapter = train_adapter


PROFILES[NAME] = two_seeds
if HOOK in os.environ:
    hook_training(Path(os.environ[HOOK]))
defs = definitions(load_profile(NAME))
