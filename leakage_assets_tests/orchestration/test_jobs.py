"""The job that re-creates the bundled model, with the settings that the web UI offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from leakage_assets.jobs import PretrainSettings, pretrain_tiny_base
from leakage_assets.paths import REPO
from leakage_assets.pipeline import tiny_base
from leakage_assets.pipeline.tiny_base import FolderNotEmpty
from leakage_assets.world import BUNDLED_SEED

OP = "pretrain_and_gate"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Path, int]]:
    """What would have been built, in a process whose working directory is not the repository."""
    calls: list[tuple[Path, int]] = []
    monkeypatch.setattr(tiny_base, "build_tiny_base", lambda folder, *, seed, emit: calls.append((folder, seed)))
    monkeypatch.chdir(tmp_path)
    return calls


def run(**settings: Any) -> dg.ExecuteInProcessResult:
    return pretrain_tiny_base.execute_in_process(run_config=dg.RunConfig({OP: PretrainSettings(**settings)}))


def test_it_runs_as_the_ui_offers_it(built: list[tuple[Path, int]]) -> None:
    assert pretrain_tiny_base.execute_in_process().success
    assert built == [(REPO / "data/artifacts/pretrained_tiny_base", BUNDLED_SEED)]


def test_another_folder_is_relative_to_the_repository(built: list[tuple[Path, int]], tmp_path: Path) -> None:
    assert run(output="data/artifacts/second", seed=7).success
    assert run(output=str(tmp_path / "third")).success
    assert built == [(REPO / "data/artifacts/second", 7), (tmp_path / "third", BUNDLED_SEED)]


def test_a_second_run_into_the_same_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(FolderNotEmpty, match="is not empty: choose another output folder, or remove it") as error:
        run(output=str(tmp_path))
    assert str(tmp_path) in str(error.value)


def test_every_setting_is_explained_to_the_user_of_the_ui() -> None:
    fields = PretrainSettings.to_fields_dict()
    assert set(fields) == {"seed", "output"}
    assert all(field.description for field in fields.values())
    assert "for a second run name another folder" in (fields["output"].description or "")
