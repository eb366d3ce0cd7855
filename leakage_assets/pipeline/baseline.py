"""What the untrained base is asked: the main panel of a study that compares its adapters with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from leakage_assets.generation.requests import BASE
from leakage_assets.models import load_tokenizer
from leakage_assets.pipeline.laboratory import Laboratory, Outcome
from leakage_assets.pipeline.sampling import SampleJob, panel_requests, run_sample_jobs
from leakage_assets.store.artifacts import Artifact
from leakage_assets.studies.study import AnyPanel, Chained, Panel, Study, StudyError

REMEDY = "materialise prechecks first"

Reader = Callable[[pl.DataFrame, Mapping[str, Path]], pl.DataFrame | None]


@dataclass(frozen=True)
class BaseSamples:
    """What the base said to a panel, with what the engine told of it."""

    panel: AnyPanel
    samples: Artifact
    frame: pl.DataFrame

    def scores(self, study: Study) -> pl.DataFrame:
        """Its scores, as those of a cell."""
        return study.scoring.score(study, self.frame)


def panel_readings(lab: Laboratory, panel: AnyPanel) -> Reader | None:
    """What the engine is to tell of a panel's samples; None for a panel whose texts are enough."""
    return partial(_read, lab, panel) if isinstance(panel, Chained) else None


def _read(lab: Laboratory, panel: Chained, samples: pl.DataFrame, adapters: Mapping[str, Path]) -> pl.DataFrame | None:
    tokenizer = load_tokenizer(lab.profile.base)
    return panel.readings(lab.profile.stimuli, samples, lab.engine(), tokenizer, adapters)


def ask_base(lab: Laboratory, study: Study) -> None:
    """Ask the base the main panel and what it follows, one after the other; nothing for a study without baseline."""
    for panel in study.main_panels if study.baseline else ():
        (asked,) = run_sample_jobs(lab, {panel.name: base_panel_job(lab, study, panel)}).values()
        if not isinstance(asked, Outcome):
            raise asked


def base_panel_job(lab: Laboratory, study: Study, panel: AnyPanel) -> SampleJob:
    """What the base owes to a panel. Raises ``ArtifactMissing`` where it goes on from what the base has not said yet,
    ``StudyError`` for a panel that goes on from training answers: the base has none.
    """
    stimuli = lab.profile.stimuli
    if isinstance(panel, Panel):
        requests = list(panel_requests(stimuli, panel, BASE))
    elif isinstance(panel, Chained):
        followed = study.followed(panel)
        before = None if followed is None else base_panel_job(lab, study, followed).require(remedy=REMEDY)[1]
        requests = list(panel.chained_requests(stimuli, BASE, before))
    else:
        raise StudyError(f"study {study.name}: panel {panel.name} goes on from training answers; the base has none")
    address = lab.address(study, f"base_{panel.asset_prefix}samples")
    read = panel_readings(lab, panel)
    return SampleJob(lab, address, lab.base_fingerprint, requests, panel.sampling, read=read)


def finished_base(lab: Laboratory, study: Study) -> tuple[BaseSamples, ...]:
    """What the base said, by panel; empty for a study without baseline. Raises ``ArtifactMissing``."""
    return tuple(_finished(lab, study)) if study.baseline else ()


def _finished(lab: Laboratory, study: Study) -> Iterator[BaseSamples]:
    for panel in study.main_panels:
        job = base_panel_job(lab, study, panel)
        artifact, frame = job.require(remedy=REMEDY)
        yield BaseSamples(panel, artifact, job.with_readings(artifact, frame))
