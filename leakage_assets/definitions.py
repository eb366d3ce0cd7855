"""Everything meets here: one Definitions per profile, one code location each (see workspace.yaml)."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from leakage_assets.assets import shared_assets, study_assets
from leakage_assets.executor.choice import chosen_executor
from leakage_assets.jobs import cells_job, conclusions_job, foundations_job, pretrain_tiny_base
from leakage_assets.paths import ARTIFACTS
from leakage_assets.profiles import Profile, load_profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.schedules import weekly_rerun


def definitions(profile: Profile, artifacts: Path = ARTIFACTS) -> dg.Definitions:
    """The lineages of a profile's studies, with their jobs and schedules."""
    studies = profile.studies
    cell_jobs = {study: cells_job(profile, study) for study in studies}
    other_jobs = [make(profile, study) for study in studies for make in (foundations_job, conclusions_job)]
    return dg.Definitions(
        assets=[*shared_assets(profile), *(a for study in studies for a in study_assets(profile, study))],
        jobs=[*cell_jobs.values(), *other_jobs, pretrain_tiny_base],
        schedules=[weekly_rerun(job, study) for study, job in cell_jobs.items()],
        resources={"laboratory": LaboratoryResource(profile=profile.name, artifacts=str(artifacts))},
        # A process per step: the base model is loaded once for all cells of the step.
        executor=chosen_executor(artifacts),
    )


tiny = definitions(load_profile("tiny"))
qwen2_5_7b = definitions(load_profile("qwen2.5-7b"))
