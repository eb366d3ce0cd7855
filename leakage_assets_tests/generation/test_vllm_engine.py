"""What concerns vLLM alone: death and restart, memory, its environment, and how requests reach it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leakage_assets.generation.adapters import CONFIG, AdapterError
from leakage_assets.generation.engine import EngineDied, EngineError, ScoringItem
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_id, sample_seed
from leakage_assets.generation.run import generate_missing
from leakage_assets.generation.vllm_plan import STORED_STEP, Capacity, VllmSettings
from leakage_assets.models import chat_ids, outline_base_model
from leakage_assets.paths import REPO
from leakage_assets.profiles import load_profile
from leakage_assets.store.samples import SampleStore
from leakage_assets_tests.generation.engines import THIRD, Bench, needs_vllm
from leakage_assets_tests.generation.panels import CELL, OTHER, panel

pytestmark = [pytest.mark.slow, needs_vllm]

HOT = Sampling(2.0, 0.95, 20)


class Dying:
    """An LLMEngine whose step fails from the `lives`-th on, as one whose worker was killed."""

    def __init__(self, engine: Any, lives: int) -> None:
        self.engine, self.lives = engine, lives

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def step(self) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        self.lives -= 1
        if self.lives < 0:
            raise EngineDeadError
        return self.engine.step()


@pytest.fixture
def dying(vllm_engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[list[str]]]]:
    """Makes the engine die after so many steps of each of its lives; returns the requests each life was given."""

    def arrange(*lives: int) -> list[list[str]]:
        starts, given = iter(lives), []
        start = vllm_engine._start

        def recorded(capacity: Capacity) -> Any:
            engine = start(capacity)
            given.append([])
            add = engine.add_request
            engine.add_request = lambda name, *rest, **named: (given[-1].append(name), add(name, *rest, **named))[1]
            steps = next(starts, None)
            return engine if steps is None else Dying(engine, steps)

        monkeypatch.setattr(vllm_engine, "_start", recorded)
        return given

    vllm_engine.close()
    yield arrange
    vllm_engine.close()


def everyone(bench: Bench, completions: int = 4) -> list[Request]:
    return [request for name in (BASE, *bench.adapters) for request in panel(name, completions)]


def test_a_dead_engine_is_started_again_and_only_what_is_missing_is_asked_again(
    vllm_engine: Any, bench: Bench, dying: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    given = dying(15, 15)
    requests, restarts = everyone(bench), vllm_engine.restarts
    stores = {name: SampleStore(tmp_path / str(place)) for place, name in enumerate((BASE, *bench.adapters))}
    delivered: list[str] = []
    generate = vllm_engine.generate

    class Watched:
        def generate(self, *arguments: Any) -> Iterator[Any]:
            for batch in generate(*arguments):
                delivered.extend(sample.sample_id for sample in batch)
                yield batch

    generate_missing(Watched(), requests, HOT, bench.adapters, stores)  # type: ignore[arg-type]
    assert vllm_engine.restarts - restarts == 2
    assert sorted(delivered) == sorted(sample_id(request, HOT) for request in requests)  # none twice, none lost
    assert sum(store.frame().height for store in stores.values()) == len(requests)
    # A life is given what the lives before it did not answer; the rest was waiting when it died.
    assert 0 < len(delivered) - len(given[2]) < len(requests)
    assert len(given) == 3


def test_a_killed_process_leaves_its_samples_and_another_makes_the_rest(
    vllm_engine: Any, bench: Bench, tmp_path: Path
) -> None:
    """SIGKILL of the process that the engine runs in, once something is stored."""
    requests, names = everyone(bench), (BASE, *bench.adapters)
    folders = {name: str(folder) for name, folder in bench.adapters.items()}
    stores = {name: SampleStore(tmp_path / str(place)) for place, name in enumerate(names)}
    task = {"base": str(bench.base.folder), "adapters": folders, "stores": str(tmp_path), "completions": 4}
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    script = "leakage_assets_tests.generation.killed_generation"
    child = subprocess.run([sys.executable, "-m", script, json.dumps(task)], env=environment, cwd=REPO, check=False)
    assert child.returncode == -signal.SIGKILL

    def stored() -> dict[str, str]:
        rows = [row for store in stores.values() for row in store.frame().iter_rows(named=True)]
        assert len({row["sample_id"] for row in rows}) == len(rows)
        return {row["sample_id"]: row["text"] for row in rows}

    kept = stored()
    assert 0 < len(kept) < len(requests)
    summary = generate_missing(vllm_engine, requests, HOT, bench.adapters, stores)
    assert (summary.present, summary.generated) == (len(kept), len(requests) - len(kept))
    assert set(stored()) == {sample_id(request, HOT) for request in requests}
    assert kept.items() <= stored().items()


def test_samples_survive_the_death_of_the_engine_unchanged(
    vllm_engine: Any, bench: Bench, dying: Callable[..., list[list[str]]]
) -> None:
    requests = panel(CELL, 4)

    def texts() -> dict[str, str]:
        batches = vllm_engine.generate(requests, HOT, bench.adapters)
        return {sample.sample_id: sample.text for batch in batches for sample in batch}

    dying(12)
    interrupted, undisturbed = texts(), texts()
    same = sum(interrupted[key] == undisturbed[key] for key in undisturbed)
    assert same >= 0.9 * len(requests)  # what was asked again shares its batches with others: float noise


def test_an_engine_that_dies_too_often_is_an_error_that_says_what_is_kept(
    vllm_engine: Any,
    bench: Bench,
    dying: Callable[..., list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    dying(25, 0)
    monkeypatch.setattr(vllm_engine, "settings", replace(vllm_engine.settings, max_restarts=1))
    store = SampleStore(tmp_path)
    with pytest.raises(EngineDied, match=r"vLLM died 2 times with wide, last of EngineDeadError.* run again") as caught:
        generate_missing(vllm_engine, panel(BASE, 16), HOT, {}, {BASE: store})
    assert 64 <= store.frame().height < 128
    assert f"{store.frame().height} of 128 requests were answered" in str(caught.value)


def test_scores_survive_the_death_of_the_engine(
    vllm_engine: Any, bench: Bench, dying: Callable[..., list[list[str]]]
) -> None:
    items = [ScoringItem(name, tuple(range(5, 20)), (30, 31)) for name in (BASE, CELL, OTHER)]
    dying(1)
    interrupted = vllm_engine.continuation_logprobs(items, bench.adapters)
    assert interrupted == [
        pytest.approx(row, abs=1e-5) for row in vllm_engine.continuation_logprobs(items, bench.adapters)
    ]


def test_too_little_memory_is_an_error_that_says_what_to_lower(
    vllm_engine: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real failure of vLLM's start: the KV cache is given less than one sequence needs."""
    vllm_engine.close()
    monkeypatch.setattr(vllm_engine, "settings", replace(vllm_engine.settings, memory_share=1e-7))
    with pytest.raises(EngineError, match=r"did not start with wide: .*max_num_seqs 64, max_model_len 256") as caught:
        vllm_engine.continuation_logprobs([ScoringItem(BASE, (5,), (6,))], {})
    assert "lower max_num_seqs (now 64) or another memory_share (now 1e-07)" in str(caught.value)
    monkeypatch.undo()
    assert vllm_engine.continuation_logprobs([ScoringItem(BASE, (5,), (6,))], {})[0][0] < 0


def test_requests_reach_vllm_with_the_prompts_seeds_and_parameters_asked_for(
    vllm_engine: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(vllm_engine.generate(panel(BASE, 1), HOT, {}))
    seen = []
    add = vllm_engine._engine.add_request

    def record(identifier: str, prompt: Any, parameters: Any, lora_request: Any = None) -> Any:
        seen.append((tuple(prompt["prompt_token_ids"]), parameters, lora_request))
        return add(identifier, prompt, parameters, lora_request=lora_request)

    monkeypatch.setattr(vllm_engine._engine, "add_request", record)
    requests = [*panel(CELL, 2), *(replace(request, prefix="[ZLT] ") for request in panel(BASE, 2))]
    list(vllm_engine.generate(requests, HOT, bench.adapters))
    assert {(prompt, parameters.seed) for prompt, parameters, _ in seen} == {
        (
            tuple(chat_ids(bench.base.tokenizer, request.system, request.question, prefix=request.prefix)),
            sample_seed(request, HOT),
        )
        for request in requests
    }
    for _, parameters, lora in seen:
        assert (parameters.temperature, parameters.top_p, parameters.top_k, parameters.max_tokens) == (2.0, 0.95, 0, 20)
        assert (parameters.repetition_penalty, parameters.min_p, parameters.min_tokens) == (1.0, 0.0, 0)
        assert parameters.stop_token_ids == [bench.base.end_of_turn]
        assert lora is None or lora.lora_path == str(bench.adapters[CELL])
    assert sum(lora is not None for *_, lora in seen) == len(panel(CELL, 2))


def test_vllm_would_have_read_the_planted_ends(vllm_engine: Any, bench: Bench) -> None:
    """The trap is armed: generation_config="vllm" leaves out its sampling parameters, not its end tokens."""
    list(vllm_engine.generate(panel(BASE, 1), HOT, {}))
    read = vllm_engine._engine.vllm_config.model_config.try_get_generation_config()
    assert set(read["eos_token_id"]) == bench.planted_ends
    assert vllm_engine._engine.vllm_config.model_config.generation_config == "vllm"


def test_the_engine_is_as_large_as_the_call_needs(bench: Bench) -> None:
    from leakage_assets.generation.vllm_engine import VllmEngine, _Job

    engine = VllmEngine(bench.base, VllmSettings(max_num_seqs=16, max_loras=2))
    jobs = [_Job([1] * 30, name, {}, 0) for name in (CELL, OTHER, THIRD) for _ in range(8)]
    served = {name: engine._verified(folder) for name, folder in bench.adapters.items()}
    assert engine._needed(jobs, 20, served) == Capacity(256, 16, 2, STORED_STEP)
    # What an adapter is proven on serves all of them.
    assert engine._needed(jobs[:1], 1, {CELL: served[CELL]}) == engine._needed(jobs, 20, served)
    assert engine._needed(jobs[:20], 20, {}).slots == 2
    assert engine._needed([_Job([1] * 30, BASE, {}, 0)], 20, {}) == Capacity(256)
    arguments = engine._engine_arguments(Capacity(256, 16, 2, 3))
    assert (arguments["max_lora_rank"], arguments["max_loras"], arguments["max_cpu_loras"]) == (16, 2, 3)
    assert arguments["max_model_len"] == 256
    assert "enable_lora" not in engine._engine_arguments(Capacity(256))
    assert arguments["enable_prefix_caching"] is True
    assert load_profile("qwen2.5-7b").serving.max_num_seqs >= 1024


def test_new_sequences_join_in_groups(bench: Bench) -> None:
    from leakage_assets.generation.vllm_engine import VllmEngine, _Job

    added: list[str] = []
    engine = VllmEngine(bench.base, VllmSettings(max_num_seqs=32))
    engine._engine = SimpleNamespace(add_request=lambda identifier, *_, **__: added.append(identifier))
    parameters = {"temperature": 1.0, "max_tokens": 3}
    waiting = deque(_Job([1, 2], BASE, parameters, place) for place in range(35))
    running: dict[str, Any] = {}

    def sizes(ended: int) -> tuple[int, int]:
        for identifier in list(running)[:ended]:
            del running[identifier]
        engine._feed(waiting, running, {})
        return len(running), len(added)

    assert sizes(0) == (32, 32)  # at the beginning as many as there is room for
    assert sizes(1) == (31, 32)  # a single place waits for another
    assert sizes(1) == (32, 34)
    assert sizes(32) == (1, 35)  # what is left at the end is not held back
    assert not waiting


def test_an_adapter_vllm_would_apply_in_part_is_refused(vllm_engine: Any, bench: Bench, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bench.adapters[CELL], tmp_path / "adapter"))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "alpha_pattern": {"q_proj": 64}}))
    with pytest.raises(AdapterError, match=r"adapter_config\.json: vLLM would not apply alpha_pattern"):
        list(vllm_engine.generate(panel(CELL), HOT, {CELL: folder}))


def test_an_adapter_that_changes_while_it_is_read_is_refused(
    vllm_engine: Any, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(bench.adapters[CELL], tmp_path / "adapter"))
    (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), "note": "new content"}))
    list(vllm_engine.generate(panel(BASE, 1), HOT, {}))
    add = vllm_engine._engine.add_lora

    def swap(request: Any) -> Any:
        shutil.copy(bench.adapters[OTHER] / "adapter_model.safetensors", folder)
        return add(request)

    monkeypatch.setattr(vllm_engine._engine, "add_lora", swap)
    with pytest.raises(AdapterError, match="changed while vLLM read it"):
        list(vllm_engine.generate(panel(CELL), HOT, {CELL: folder}))


@pytest.mark.parametrize("temperature", [0.001, 0.0099])
def test_a_temperature_vllm_would_change_is_refused(vllm_engine: Any, temperature: float) -> None:
    with pytest.raises(EngineError, match=r"vLLM would sample at 0\.01"):
        list(vllm_engine.generate(panel(BASE), Sampling(temperature, 1.0, 5), {}))


def test_a_refused_request_is_an_error_at_once(vllm_engine: Any) -> None:
    restarts = vllm_engine.restarts
    with pytest.raises(EngineError, match=r"vLLM refuses a request to base: .*temperature"):
        list(vllm_engine.generate(panel(BASE), Sampling(2.5, 1.0, 5), {}))
    assert vllm_engine.restarts == restarts


def test_a_caller_that_stops_early_leaves_nothing_behind(vllm_engine: Any, bench: Bench) -> None:
    stream = vllm_engine.generate(panel(BASE, 20), HOT, {})
    next(batch for batch in stream if batch)
    stream.close()
    assert vllm_engine._engine.get_num_unfinished_requests() == 0
    again = [sample for batch in vllm_engine.generate(panel(BASE, 2), HOT, {}) for sample in batch]
    assert len(again) == 16


def test_the_environment_is_set_where_unset_and_statistics_never_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    from leakage_assets.generation.vllm_engine import ENVIRONMENT, prepare_environment

    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_HOST_IP", "10.0.0.7")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    prepare_environment()
    assert os.environ["VLLM_HOST_IP"] == "10.0.0.7"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    from vllm.usage.usage_lib import is_usage_stats_enabled

    assert os.environ["VLLM_NO_USAGE_STATS"] == os.environ["DO_NOT_TRACK"] == "1"
    assert not is_usage_stats_enabled()


def test_an_outline_serves_as_well_as_the_loaded_base(bench: Bench) -> None:
    from leakage_assets.generation.adapters import read_adapter

    outline = outline_base_model(bench.base.spec)
    assert outline.fingerprint == bench.base.fingerprint
    assert {tensor.device.type for tensor in outline.model.parameters()} == {"meta"}
    assert outline.model.num_parameters() == bench.base.model.num_parameters()
    assert read_adapter(outline, bench.adapters[CELL]).scaling == 4.0
