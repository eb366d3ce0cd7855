"""Jobs: a study from training sets to scores, its conclusions, and the pre-training of the bundled model."""

from pathlib import Path

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from leakage_assets.assets.common import asset_key
from leakage_assets.assets.study_assets import PRECHECKS, foundation_names
from leakage_assets.partitions import cell_partitions
from leakage_assets.paths import REPO
from leakage_assets.profiles import Profile
from leakage_assets.studies.study import Study
from leakage_assets.world import BUNDLED_SEED


def cells_job(profile: Profile, study: Study) -> UnresolvedAssetJobDefinition:
    """Adapter, samples and scores of a range of cells: what a seed is backfilled with."""
    names = ["adapter", *(f"{p.asset_prefix}{stage}" for p in study.main_panels for stage in ("samples", "scores"))]
    return dg.define_asset_job(
        f"{study.name}_cells",
        selection=dg.AssetSelection.assets(*(asset_key(profile, study, name) for name in names)),
        partitions_def=cell_partitions(study),
        description="Train, prove, sample and score a range of cells on one base-model load.",
    )


def conclusions_job(profile: Profile, study: Study) -> UnresolvedAssetJobDefinition:
    """Similarity, analysis, figures and report over the cells that are finished."""
    names = ["prompt_similarity", "analysis", "figures", "report"]
    return dg.define_asset_job(
        f"{study.name}_conclusions",
        selection=dg.AssetSelection.assets(*(asset_key(profile, study, name) for name in names)),
        description="Read the result off the cells that are finished.",
    )


def foundations_job(profile: Profile, study: Study) -> UnresolvedAssetJobDefinition:
    """What every cell needs and no partition has: base model, stimuli, plan, geometry of the base."""
    keys = [asset_key(profile, None, name) for name in ("base_model", "stimuli")]
    # Checks of the training answers come after the answers, which are partitioned and so in no job with these.
    names = foundation_names(study)
    keys += [asset_key(profile, study, name) for name in names if name != PRECHECKS or not study.audits_answers]
    return dg.define_asset_job(
        f"{study.name}_foundations",
        selection=dg.AssetSelection.assets(*keys),
        description="Verify the base model, freeze the plan and measure the geometry of the base model.",
    )


class PretrainSettings(dg.Config):
    """From which seed the model is re-created, and where it goes."""

    seed: int = Field(
        default=BUNDLED_SEED, description="Everything random derives from it; the default is the bundled model's."
    )
    output: str = Field(
        default="data/artifacts/pretrained_tiny_base",
        description="A new or empty folder, relative to the repository (an absolute path is taken as it is). A folder "
        "that holds a model is never written over: for a second run name another folder, or remove the first.",
    )


@dg.op(description="Re-create the bundled tiny base model from a seed and pass it through its gates.")
def pretrain_and_gate(context: dg.OpExecutionContext, config: PretrainSettings) -> None:
    """The world's pre-training, with progress in the run's log; fails if a gate does."""
    from leakage_assets.pipeline.tiny_base import build_tiny_base

    # Not relative to the working directory, which is the daemon's.
    build_tiny_base(REPO / Path(config.output).expanduser(), seed=config.seed, emit=context.log.info)


@dg.job(description="Re-create data/tiny_base from a seed: corpus, tokenizer, pre-training, gates, model card.")
def pretrain_tiny_base() -> None:
    """One op."""
    pretrain_and_gate()
