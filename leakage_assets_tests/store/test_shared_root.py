"""The id of an artifact root: made once, whoever asks first; another root has another one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from leakage_assets.store.shared_root import EXPECTED, MARKER, OtherStore, require_expected_store, store_id

ASK = """
import sys
from pathlib import Path
from leakage_assets.store.shared_root import store_id
print(store_id(Path(sys.argv[1])))
"""


def test_a_root_keeps_its_id(tmp_path: Path) -> None:
    one, other = tmp_path / "deep" / "one", tmp_path / "other"
    first = store_id(one)
    assert store_id(one) == first == (one / MARKER).read_text()
    assert store_id(other) != first
    assert not list(one.glob(".tmp-*"))


def test_runs_that_ask_at_the_same_time_get_one_id(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK, str(tmp_path / "root")]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate()[0] for process in asking}
    assert len(answers) == 1 and len(answers.pop().strip()) == 32


def test_without_an_expectation_any_root_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EXPECTED, raising=False)
    require_expected_store(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_the_same_root_passes_and_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = store_id(tmp_path / "mine"), store_id(tmp_path / "theirs")
    monkeypatch.setenv(EXPECTED, theirs)
    require_expected_store(tmp_path / "theirs")
    with pytest.raises(OtherStore, match=f"holds store {mine}, the run uses store {theirs}") as error:
        require_expected_store(tmp_path / "mine")
    assert f"{tmp_path / 'mine'} on " in str(error.value) and "LEAKAGE_ARTIFACTS" in str(error.value)
    with pytest.raises(OtherStore, match=f"holds no store, the run uses store {theirs}"):
        require_expected_store(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
