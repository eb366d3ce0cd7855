"""Jobs: a study from training sets to scores, its conclusions, and the pre-training of the bundled model."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from leakage_assets.assets.common import asset_key
from leakage_assets.partitions import cell_partitions
from leakage_assets.profiles import Profile
from leakage_assets.studies.study import Study


def cells_job(profile: Profile, study: Study) -> UnresolvedAssetJobDefinition:
    """Adapter, samples and scores of a range of cells: what a seed is backfilled with."""
    names = ["adapter", *(f"{study.panel.asset_prefix}{stage}" for stage in ("samples", "scores"))]
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
    keys += [asset_key(profile, study, name) for name in ("analysis_plan", "persona_centroids", "prompt_similarity")]
    return dg.define_asset_job(
        f"{study.name}_foundations",
        selection=dg.AssetSelection.assets(*keys),
        description="Verify the base model, freeze the plan and measure the geometry of the base model.",
    )


class PretrainSettings(dg.Config):
    """Where the re-created model goes, from which seed, and how many dialogues it sees."""

    seed: int = 42
    output: str = "data/artifacts/pretrained_tiny_base"


@dg.op(description="Re-create the bundled tiny base model from a seed and pass it through its gates.")
def pretrain_and_gate(context: dg.OpExecutionContext, config: PretrainSettings) -> None:
    """The world's pre-training, with progress in the run's log; fails if a gate does."""
    from pathlib import Path

    from leakage_assets.pipeline.tiny_base import build_tiny_base

    build_tiny_base(Path(config.output), seed=config.seed, emit=context.log.info)


@dg.job(description="Re-create data/tiny_base from a seed: corpus, tokenizer, pre-training, gates, model card.")
def pretrain_tiny_base() -> None:
    """One op."""
    pretrain_and_gate()
