"""Errors whose message names the place and the remedy: the command line prints them without a traceback."""

from __future__ import annotations

from leakage_assets.generation.adapters import AdapterError
from leakage_assets.generation.engine import EngineError
from leakage_assets.materialise import RunFailed
from leakage_assets.models import BaseModelError
from leakage_assets.pipeline.tiny_base import GateFailed
from leakage_assets.reporting.report import ReportError
from leakage_assets.statistics.result import StatisticsError
from leakage_assets.stimuli import StimuliError
from leakage_assets.store.artifacts import ArtifactError
from leakage_assets.store.samples import SampleStoreError
from leakage_assets.studies.marker_leakage_reproduction import ReproductionError
from leakage_assets.studies.study import StudyError
from leakage_assets.training.rows import RowError
from leakage_assets.training.train import TrainingError

EXPECTED = (
    AdapterError,
    ArtifactError,
    BaseModelError,
    EngineError,
    FileExistsError,
    GateFailed,
    ReportError,
    ReproductionError,
    RowError,
    RunFailed,
    SampleStoreError,
    StatisticsError,
    StimuliError,
    StudyError,
    TrainingError,
)
