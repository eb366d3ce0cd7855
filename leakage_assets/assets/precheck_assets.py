"""The checks of a study before anything is trained, for studies that have some."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from leakage_assets.assets.common import ONE_GPU, OWNERS, RETRIES, asset_key, group
from leakage_assets.cell_runs import not_retried, single
from leakage_assets.checks import precheck_result, precheck_spec
from leakage_assets.partitions import audited_answers
from leakage_assets.pipeline.prechecks import read_prechecks, run_prechecks
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import Study


def precheck_assets(profile: Profile, study: Study) -> list[dg.AssetsDefinition]:
    """``prechecks``, which training sets depend on; none for a study without."""
    if study.prechecks is None:
        return []
    key = asset_key(profile, study, "prechecks")
    upstream = [dg.AssetDep(asset_key(profile, None, name)) for name in ("base_model", "stimuli")]
    if study.audits_answers:
        answers = asset_key(profile, None, "on_policy_completions")
        upstream.append(dg.AssetDep(answers, partition_mapping=audited_answers(study)))

    @dg.asset(
        key=key,
        deps=[*upstream, asset_key(profile, study, "prompt_similarity")],
        check_specs=[precheck_spec(key)],
        group_name=group(profile, "foundations"),
        kinds={"transformers", "parquet"},
        owners=OWNERS,
        op_tags=ONE_GPU,
        retry_policy=RETRIES,
    )
    def prechecks(
        context: dg.AssetExecutionContext, laboratory: LaboratoryResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """What must hold before anything is trained: of the prompts, and of the base model under them."""
        with not_retried():
            outcome = run_prechecks(laboratory.open(context), study)
        yield single(outcome)
        yield precheck_result(study, read_prechecks(outcome.artifact))

    return [prechecks]
