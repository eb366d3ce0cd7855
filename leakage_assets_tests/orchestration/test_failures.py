"""What a failed run says in the terminal: a sentence with place and remedy, or, of a defect, the whole trace."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info

from leakage_assets.checks import precheck_result, precheck_spec
from leakage_assets.cli import main
from leakage_assets.exceptions import ExpectedError, PartitionError
from leakage_assets.materialise import StudyRuns, error_text, reason_of
from leakage_assets.pipeline.prechecks import SCHEMA
from leakage_assets.profiles import load_profile
from leakage_assets.studies.study import Cell


class Missing(PartitionError):
    """An error of this test, two steps below the expected ones."""


class DagsterStepFailed(Exception):
    """Named like the errors that Dagster raises from an asset's."""


def text_of(error: BaseException, cause: BaseException | None = None) -> str:
    """What is printed of an error that Dagster wraps."""
    try:
        try:
            raise error from cause
        except Exception as inner:
            raise DagsterStepFailed("Error occurred while executing op") from inner
    except DagsterStepFailed:
        return error_text(serializable_error_info_from_exc_info(sys.exc_info()))


@pytest.mark.parametrize("kind", [ExpectedError, PartitionError, Missing])
def test_of_an_expected_error_only_its_sentence_is_printed(kind: type[Exception]) -> None:
    assert text_of(kind("a/b.yaml: line 3: no marker: add one")) == "a/b.yaml: line 3: no marker: add one"


def test_what_an_expected_error_came_from_is_left_out() -> None:
    assert text_of(Missing("a/b.yaml: not YAML: mend line 3"), ValueError("tabs")) == "a/b.yaml: not YAML: mend line 3"


@pytest.mark.parametrize("cause", [None, Missing("a/b.yaml")])
def test_of_any_other_error_the_trace_is_kept(cause: BaseException | None) -> None:
    said = text_of(RuntimeError("a defect"), cause)
    assert "RuntimeError: a defect" in said and "Stack Trace:" in said and __file__ in said


def test_a_missing_upstream_artifact_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def only_conclusions(runs: StudyRuns, cells: Sequence[Cell], extras: bool) -> Iterator[str]:
        yield from runs.conclusions()

    monkeypatch.setattr(StudyRuns, "all_stages", only_conclusions)
    code, out, err = run_command(tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "tiny__marker_leakage__analysis: " in err and "materialise " in err and " first" in err
    assert "Traceback" not in out + err and "Stack Trace" not in out + err and 'File "' not in out + err
    assert len(err.strip().splitlines()) == 1


def test_a_defect_shows_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a defect of the program")

    monkeypatch.setattr("leakage_assets.assets.shared.record_base_model", broken)
    code, _, err = run_command(tmp_path, monkeypatch, capsys)
    assert code == 1 and "ZeroDivisionError: a defect of the program" in err and 'File "' in err


CENTROIDS = "leakage_assets.assets.geometry_assets.measure_persona_centroids"


def test_a_failing_device_is_told_at_once_and_with_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[None] = []

    def broken(*_: Any) -> None:
        tried.append(None)
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr(CENTROIDS, broken)
    code, _, err = run_command(tmp_path, monkeypatch, capsys)
    assert code == 1 and len(tried) == 1
    assert "RuntimeError: CUDA error: device lost" in err and 'File "' in err


def test_ctrl_c_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[None] = []

    def interrupted(*_: Any) -> None:
        tried.append(None)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(CENTROIDS, interrupted)
    code, out, err = run_command(tmp_path, monkeypatch, capsys)
    assert code == 130 and len(tried) == 1
    assert "Traceback" not in out + err and "Retry" not in out + err


def run_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """`leakage run marker_leakage` on an empty artifact root, with a Dagster instance of its own."""
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    words = ["run", "marker_leakage", "--seed", "42", "--artifacts", str(folder / "artifacts")]
    monkeypatch.setattr(sys, "argv", ["leakage", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    said = capsys.readouterr()
    return int(exit_.value.code or 0), said.out, said.err


@pytest.mark.parametrize("outcome", ["ok", "warn", "block"])
def test_a_blocking_precheck_says_what_it_found_and_what_to_mend(outcome: str) -> None:
    (study,) = (study for study in load_profile("tiny").studies if study.name == "two_marker_chunk")
    key = dg.AssetKey("checked")
    row = {"name": "tokens of B", "value": 7.0, "limit": 5.0, "outcome": outcome, "detail": "7 tokens, 5 are pinned"}

    @dg.asset(key=key, check_specs=[precheck_spec(key)])
    def checked() -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        yield dg.MaterializeResult()
        yield precheck_result(study, pl.DataFrame([row], schema=SCHEMA))

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([checked], instance=instance, raise_on_error=False)
    assert result.success == (outcome != "block")
    if outcome == "block":
        assert reason_of(result) == (
            "checked: two_marker_chunk: nothing may be trained: tokens of B: 7 tokens, 5 are pinned; mend what they "
            "are about (markers, prompts and questions are in data/stimuli) and run again"
        )
