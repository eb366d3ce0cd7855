"""Which base model the profile of the real model runs on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leakage_assets.models import BaseModelSpec, RandomWeights, base_model_identity
from leakage_assets.paths import TINY_BASE
from leakage_assets.profiles import BASE_MODEL, PROFILES, load_profile
from leakage_assets.shapes import ShapeError
from leakage_assets.stimuli import load_stimuli


def base_of_the_real_profile() -> BaseModelSpec:
    """Not ``load_profile``, which keeps what it built under another environment."""
    return PROFILES["qwen2.5-7b"](load_stimuli()).base


def test_the_real_profile_has_a_pinned_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BASE_MODEL, raising=False)
    base = base_of_the_real_profile()
    assert (base.source, base.random) == ("Qwen/Qwen2.5-7B-Instruct", None)
    assert base_model_identity(base)["commit"] == base.revision


def test_a_local_folder_takes_its_place_and_is_named_by_its_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(TINY_BASE, tmp_path / "my-model"))
    monkeypatch.setenv(BASE_MODEL, str(folder))
    base = base_of_the_real_profile()
    assert (base.name, base.source, base.revision, base.dtype) == ("my-model", str(folder), None, "bfloat16")
    bundled = base_model_identity(load_profile("tiny").base)
    assert base_model_identity(base) == {**bundled, "dtype": "bfloat16"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(BASE_MODEL, "my-model")
    assert base_of_the_real_profile().source == str(folder)  # a step that runs elsewhere finds it too


def test_random_weights_take_its_place_for_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE_MODEL, "random:qwen2.5-7b")
    base = base_of_the_real_profile()
    assert base.random == RandomWeights("qwen2.5-7b")
    assert base_model_identity(base)["random_weights"] == {"shape": "qwen2.5-7b", "seed": 42}
    monkeypatch.setenv(BASE_MODEL, "random:nosuch")
    with pytest.raises(ShapeError, match=r"'nosuch'; shapes: qwen2\.5-7b"):
        base_of_the_real_profile()


def test_the_bundled_profile_keeps_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE_MODEL, "random:qwen2.5-7b")
    assert PROFILES["tiny"](load_stimuli()).base.source == str(TINY_BASE)
