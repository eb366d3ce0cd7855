"""Steps on other hosts are told the store of their run, whoever names it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from dagster._core.executor.step_delegating import StepHandlerContext

from leakage_assets.executor.remote import RemoteSteps
from leakage_assets.store.shared_root import EXPECTED, store_id

TAGS = {"leakage/gpus": "1"}


def launched(artifacts: Path, run_config: Any) -> dict[str, str]:
    """The variables of a step that is launched under this configuration of the run."""
    told: list[Any] = []
    library = MagicMock()
    library.launch_step.side_effect = lambda context: [told.append(context.step_tags)]
    context: Any = StepHandlerContext(
        instance=MagicMock(),
        plan_context=MagicMock(),
        steps=[SimpleNamespace(key="step", tags=TAGS)],  # type: ignore[list-item]
        execute_step_args=MagicMock(),
        dagster_run=SimpleNamespace(run_config=run_config),  # type: ignore[arg-type]
    )
    list(RemoteSteps(library, artifacts, lambda tags, variables: {**tags, **variables}).launch_step(context))
    (tags,) = told
    assert tags["step"].items() >= TAGS.items()
    return dict(tags["step"])


def test_the_store_is_that_of_the_code_location(tmp_path: Path) -> None:
    assert launched(tmp_path / "one", {})[EXPECTED] == store_id(tmp_path / "one")


def test_unless_the_configuration_of_the_run_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    monkeypatch.setenv("ELSEWHERE", str(other))
    for named in (str(other), {"env": "ELSEWHERE"}):
        config = {"resources": {"laboratory": {"config": {"artifacts": named}}}}
        assert launched(tmp_path / "one", config)[EXPECTED] == store_id(other)
    assert not (tmp_path / "one").exists()
