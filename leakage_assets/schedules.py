"""Schedules: a weekly re-run of one seed, which makes its finished cells anew."""

from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from leakage_assets.partitions import partition_key, range_tags
from leakage_assets.resources import REFRESH_TAG
from leakage_assets.studies.study import Cell, Study

MONDAY_AT_THREE = "0 3 * * 1"


def weekly_rerun(job: UnresolvedAssetJobDefinition, study: Study) -> dg.ScheduleDefinition:
    """Every Monday, all conditions of the first seed, one run; the tick's date is the refresh token.

    A retry of the same tick carries the same token, so it redoes only what is not finished.
    """

    @dg.schedule(
        name=f"{study.name}_weekly_rerun",
        job=job,
        cron_schedule=MONDAY_AT_THREE,
        description=f"Re-run seed {study.seeds[0]} of every condition, to see drift of code, libraries and hardware.",
    )
    def weekly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        tick = context.scheduled_execution_time.date().isoformat()
        keys = [str(partition_key(Cell(condition, study.seeds[0]))) for condition in study.conditions]
        yield dg.RunRequest(run_key=tick, tags={**range_tags(keys), REFRESH_TAG: tick})

    return weekly
