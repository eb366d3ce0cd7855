"""Partitions of a study: condition x seed. The only module that turns partition keys into cells."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from leakage_assets.studies.study import Cell, Condition, Pools, Study

CONDITION, SEED = "condition", "seed"


def condition_partitions(study: Study) -> dg.StaticPartitionsDefinition:
    """One key per source and recipe that is trained."""
    return dg.StaticPartitionsDefinition([condition.key for condition in study.conditions])


def pool_partitions(answers: Pools) -> dg.StaticPartitionsDefinition:
    """One key per pool of answers to training questions."""
    return dg.StaticPartitionsDefinition([pool.name for pool in answers.pools])


def answers_mapping(study: Study) -> dg.StaticPartitionMapping:
    """Which pool's answers each condition is trained on."""
    conditions: dict[str, list[str]] = {pool.name: [] for pool in study.data.pools}
    for condition in study.conditions:
        for donor in study.donors(study, condition):
            conditions[donor].append(condition.key)
    return dg.StaticPartitionMapping({pool: keys for pool, keys in conditions.items() if keys})


def audited_answers(study: Study) -> dg.SpecificPartitionsPartitionMapping:
    """All pools of the study, for what reads them before anything is trained."""
    return dg.SpecificPartitionsPartitionMapping([pool.name for pool in study.data.pools])


def cell_partitions(study: Study) -> dg.MultiPartitionsDefinition:
    """Condition x seed: one key per adapter. Dagster knows no third dimension."""
    seeds = dg.StaticPartitionsDefinition([str(seed) for seed in study.seeds])
    return dg.MultiPartitionsDefinition({CONDITION: condition_partitions(study), SEED: seeds})


def partition_key(cell: Cell) -> dg.MultiPartitionKey:
    """The Dagster key of a cell."""
    return dg.MultiPartitionKey({CONDITION: cell.condition.key, SEED: str(cell.seed)})


def cell_of(key: str) -> Cell:
    """The cell of a Dagster key; the parts of a ``MultiPartitionKey`` are read, its text is never split here."""
    if not isinstance(key, dg.MultiPartitionKey):
        raise TypeError(f"partition key {key!r} has no dimensions: expected a MultiPartitionKey")
    parts = key.keys_by_dimension
    return Cell(Condition.parse(parts[CONDITION]), int(parts[SEED]))


def range_tags(keys: Iterable[str]) -> dict[str, str]:
    """Run tags that select a contiguous range of partitions in one run."""
    ordered = list(keys)
    return {
        "dagster/asset_partition_range_start": ordered[0],
        "dagster/asset_partition_range_end": ordered[-1],
    }
