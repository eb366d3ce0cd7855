"""Which studies can be recomputed from published tables, and how their statistics are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from leakage_assets.paths import DATA
from leakage_assets.studies.published import read_headline
from leakage_assets.studies.study import StudyError

if TYPE_CHECKING:
    import polars as pl


def reproduction(study: str) -> Callable[[Path], pl.DataFrame]:
    """The function that recomputes a study's published statistics. Raises ``StudyError`` listing what exists."""
    from leakage_assets.studies.cot_leakage import reproduction as cot_leakage
    from leakage_assets.studies.marker_leakage import reproduction as marker_leakage
    from leakage_assets.studies.source_rate import reproduction as source_rate
    from leakage_assets.studies.trigger_leakage import reproduction as trigger_leakage
    from leakage_assets.studies.two_marker_chunk import reproduction as two_marker_chunk

    known = {
        "marker_leakage": marker_leakage.reproduce,
        "source_rate": source_rate.reproduce,
        "trigger_leakage": trigger_leakage.reproduce,
        "cot_leakage": cot_leakage.reproduce,
        "two_marker_chunk": two_marker_chunk.reproduce,
    }
    if study not in known:
        raise StudyError(f"no published tables are known for study {study!r}; studies: {', '.join(known)}")
    return known[study]


def known_errors(study: str) -> Mapping[str, str]:
    """What is wrong in a study's write-up, by the entry of its protocol sheet; one sentence each."""
    return read_headline(DATA / "published" / f"{study}.json").known_errors


def statistic_labels(study: str) -> Mapping[str, tuple[str, str]]:
    """How a report calls each headline statistic of a study, and the format it prints it with."""
    labels: Mapping[str, tuple[str, str]] = import_module(f"leakage_assets.studies.{study}.report").WRITE_UP.labels
    return labels
