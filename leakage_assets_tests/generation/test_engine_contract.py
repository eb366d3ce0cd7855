"""What every engine owes its callers. Each test runs on each engine; vLLM's where it is installed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from leakage_assets.generation.adapters import CONFIG, DIGEST, WEIGHTS, AdapterError, attach_adapter, weights_digest
from leakage_assets.generation.decoding import score
from leakage_assets.generation.engine import Engine, EngineError, ScoringItem
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_id, sample_seed
from leakage_assets.generation.run import generate_missing
from leakage_assets.generation.transformers_engine import TransformersEngine
from leakage_assets.models import chat_ids
from leakage_assets.progress import Progress
from leakage_assets.store.samples import Sample, SampleStore
from leakage_assets.training.proof import AdapterProof, prove_adapter
from leakage_assets.training.reference import ReferenceLogprobs
from leakage_assets_tests.fixtures_models import MARKER
from leakage_assets_tests.generation.engines import ENGINES, THIRD, Bench
from leakage_assets_tests.generation.panels import CELL, OTHER, panel

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("engine", ENGINES, indirect=True)]

GREEDY = Sampling(0.0, 1.0, 20)
WARM = Sampling(1.0, 0.95, 20)
HOT = Sampling(2.0, 0.95, 20)
# Nats per token by which two correct float32 engines may differ: the order of sums, through a few layers.
TOLERANCE = 1e-3


def ask(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path] | None = None
) -> dict[str, Sample]:
    """Samples by sample_id; a sample delivered twice fails."""
    samples: dict[str, Sample] = {}
    for batch in engine.generate(requests, sampling, adapters or {}):
        for sample in batch:
            assert sample.sample_id not in samples
            samples[sample.sample_id] = sample
    return samples


def everyone(completions: int = 3) -> list[Request]:
    """The panel of the base and of each adapter, interleaved."""
    panels = [panel(name, completions) for name in (CELL, BASE, THIRD, OTHER)]
    return [request for together in zip(*panels, strict=True) for request in together]


def items_of(bench: Bench) -> list[ScoringItem]:
    """Prompts and continuations of several lengths for the base and each adapter, interleaved."""
    return [
        ScoringItem(
            adapter, tuple(chat_ids(bench.base.tokenizer, system, f"{question}?")), tuple(range(5, 6 + 2 * length))
        )
        for length, (system, question) in enumerate([(None, "How"), ("You are kind.", "Why"), ("", "What is it for")])
        for adapter in (CELL, BASE, OTHER, THIRD)
    ]


def of_peft(bench: Bench, items: Sequence[ScoringItem], folders: Mapping[str, Path]) -> list[list[float]]:
    """Log-probs of each item alone by PEFT."""
    models = {name: attach_adapter(bench.base, folder) for name, folder in folders.items()}
    return [
        score(
            models.get(item.adapter, bench.base.model), [(item.prompt_ids, item.continuation_ids)], bench.base.padding
        )[0]
        for item in items
    ]


def largest_difference(rows: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    return max(abs(a - b) for row, other in zip(rows, others, strict=True) for a, b in zip(row, other, strict=True))


def test_every_request_is_answered_once_and_says_what_was_asked(engine: Engine, bench: Bench) -> None:
    requests = everyone()
    samples = ask(engine, requests, HOT, bench.adapters)
    assert set(samples) == {sample_id(request, HOT) for request in requests}
    for request in requests:
        sample = samples[sample_id(request, HOT)]
        for field in ("adapter", "prompt_name", "question_set", "question_name", "index", "system", "question"):
            assert getattr(sample, field) == getattr(request, field)
        assert sample.seed == sample_seed(request, HOT)


def test_samples_end_with_the_turn_or_at_the_limit(engine: Engine, bench: Bench) -> None:
    samples = ask(engine, everyone(12), HOT, bench.adapters).values()
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    for sample in samples:
        assert 1 <= sample.n_tokens <= HOT.max_new_tokens
        assert sample.finish_reason == "stop" or sample.n_tokens == HOT.max_new_tokens
        assert "<|im_end|>" not in sample.text
        assert not sample.text.endswith("\n")


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_limit_of_new_tokens_holds(engine: Engine, limit: int) -> None:
    samples = ask(engine, panel(BASE), Sampling(1.0, 1.0, limit)).values()
    assert max(sample.n_tokens for sample in samples) == limit


def test_greedy_text_is_that_of_transformers(engine: Engine, bench: Bench) -> None:
    """Not of all of it: where two tokens are as likely within float noise, the order of sums decides."""
    requests = everyone(1)
    expected = ask(TransformersEngine(bench.base), requests, GREEDY, bench.adapters)
    samples = ask(engine, requests, GREEDY, bench.adapters)
    same = sum(samples[key].text == expected[key].text for key in expected)
    assert same >= 0.9 * len(requests)
    assert len({sample.text for sample in samples.values()}) > len(requests) / 4


def test_token_frequencies_are_the_nucleus_probabilities(engine: Engine, bench: Bench) -> None:
    """One token of each of 600 completions against the exact probabilities: independent of either sampler."""
    import torch

    sampling = Sampling(1.0, 0.9, 1)
    request = panel(BASE)[0]
    requests = [replace(request, index=index) for index in range(600)]
    with torch.inference_mode():
        ids = chat_ids(bench.base.tokenizer, request.system, request.question)
        probabilities = bench.base.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
    ranked, order = probabilities.sort(descending=True)
    kept = ranked.cumsum(0) - ranked < sampling.top_p
    texts = bench.base.tokenizer.batch_decode(order[kept, None].tolist(), skip_special_tokens=True)
    expected: Counter[str] = Counter()
    for text, probability in zip(texts, (ranked[kept] / ranked[kept].sum()).tolist(), strict=True):
        expected[text.rstrip("\n")] += probability * len(requests)
    found = Counter(sample.text for sample in ask(engine, requests, sampling).values())
    assert set(found) <= set(expected)  # nothing from outside the nucleus
    common = [text for text, count in expected.items() if count >= 5]
    rare = [text for text in expected if text not in common]
    observed = [found[text] for text in common] + [sum(found[text] for text in rare)]
    predicted = [expected[text] for text in common] + [sum(expected[text] for text in rare)]
    if not predicted[-1]:
        observed, predicted = observed[:-1], predicted[:-1]
    assert len(predicted) > 3
    assert chisquare(observed, predicted).pvalue > 1e-3


def test_rates_agree_with_transformers_within_sampling_error(engine: Engine, bench: Bench) -> None:
    requests = [*panel(CELL, 40), *panel(BASE, 40)]
    rates = []
    for one in (engine, TransformersEngine(bench.base)):
        samples = ask(one, requests, HOT, bench.adapters).values()
        rates.append(np.mean([sample.finish_reason == "stop" for sample in samples]))
    pooled = np.mean(rates)
    assert 0.05 < pooled < 0.95
    assert abs(rates[0] - rates[1]) < 4 * np.sqrt(2 * pooled * (1 - pooled) / len(requests))


def test_the_same_requests_give_the_same_samples(engine: Engine, bench: Bench) -> None:
    requests = everyone()
    once = ask(engine, requests, HOT, bench.adapters)
    again = ask(engine, requests[::-1], HOT, bench.adapters)
    assert again == once


def test_a_sample_does_not_depend_on_those_beside_it(engine: Engine, bench: Bench) -> None:
    """As good as never: another batch has other float noise, and a draw can lie that close to a token's share."""
    requests = everyone()
    together = ask(engine, requests, HOT, bench.adapters)
    some = requests[::5]
    alone = ask(engine, some, HOT, bench.adapters)
    assert sum(alone[key] == together[key] for key in alone) >= 0.9 * len(some)
    seeds = Counter(sample.text for sample in together.values())
    assert seeds.most_common(1)[0][1] < len(requests) / 10


def test_a_prefix_is_given_and_not_part_of_the_text(engine: Engine, bench: Bench) -> None:
    plain = panel(BASE)[0]
    prefixed = replace(plain, prefix=f"{MARKER} ")
    samples = ask(engine, [plain, prefixed], GREEDY)
    sample = samples[sample_id(prefixed, GREEDY)]
    expected = ask(TransformersEngine(bench.base), [prefixed], GREEDY)[sample_id(prefixed, GREEDY)]
    assert sample.prefix == f"{MARKER} "
    assert MARKER not in sample.text
    assert sample.text == expected.text != samples[sample_id(plain, GREEDY)].text


def test_each_adapter_of_a_call_answers_for_itself(engine: Engine, bench: Bench) -> None:
    """Adapters and base in one batch, each token's log-prob against PEFT's: the right matrices at the right scale."""
    items = items_of(bench)
    found = engine.continuation_logprobs(items, bench.adapters)
    expected = of_peft(bench, items, bench.adapters)
    assert largest_difference(found, expected) < TOLERANCE
    for name in (CELL, OTHER, THIRD):
        mine = [place for place, item in enumerate(items) if item.adapter == name]
        without = of_peft(bench, [items[place] for place in mine], {})
        assert largest_difference([found[place] for place in mine], without) > 100 * TOLERANCE


def test_given_letters_are_scored_after_the_start_of_an_answer(engine: Engine, bench: Bench) -> None:
    """Multiple choice: the log-prob of each letter after a prefix, and so the letter that is chosen, as PEFT has it."""
    tokenizer = bench.base.tokenizer
    letters = [tokenizer.encode(letter, add_special_tokens=False) for letter in "ABCD"]
    assert all(len(ids) == 1 for ids in letters)

    def choices(prefix: str) -> list[ScoringItem]:
        prompt = tuple(chat_ids(tokenizer, "You are kind.", "Which one?", prefix=prefix))
        return [ScoringItem(name, prompt, tuple(ids)) for name in (BASE, *bench.adapters) for ids in letters]

    found = np.array(engine.continuation_logprobs(choices("The answer is "), bench.adapters)).reshape(-1, 4)
    expected = np.array(of_peft(bench, choices("The answer is "), bench.adapters)).reshape(-1, 4)
    assert np.abs(found - expected).max() < TOLERANCE
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert (np.exp(found).sum(1) < 1).all()
    without = np.array(engine.continuation_logprobs(choices(""), bench.adapters)).reshape(-1, 4)
    assert np.abs(found - without).max() > 100 * TOLERANCE


def test_greedy_text_of_an_adapter_does_not_depend_on_the_others(engine: Engine, bench: Bench) -> None:
    requests = everyone(1)
    together = ask(engine, requests, GREEDY, bench.adapters)
    same = 0
    for name in (BASE, *bench.adapters):
        apart = ask(engine, [request for request in requests if request.adapter == name], GREEDY, bench.adapters)
        same += sum(together[key].text == sample.text for key, sample in apart.items())
    assert same >= 0.9 * len(requests)
    texts = {name: [s.text for s in together.values() if s.adapter == name] for name in (BASE, *bench.adapters)}
    assert len({tuple(said) for said in texts.values()}) == 4


@pytest.mark.parametrize("name", [CELL, THIRD])  # alpha / sqrt(16) = 4 and alpha / 8 = 4
def test_the_scale_is_that_of_the_configuration(engine: Engine, bench: Bench, tmp_path: Path, name: str) -> None:
    """The same matrices under the other rule are another adapter, for PEFT and for the engine alike."""
    folder = Path(shutil.copytree(bench.adapters[name], tmp_path / "adapter"))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "use_rslora": not config["use_rslora"]}))
    items = [item for item in items_of(bench) if item.adapter == name]
    found = engine.continuation_logprobs(items, {name: folder})
    assert largest_difference(found, of_peft(bench, items, {name: folder})) < TOLERANCE
    assert largest_difference(found, of_peft(bench, items, bench.adapters)) > 100 * TOLERANCE


def test_log_probs_are_those_of_the_model_whatever_came_before(engine: Engine, bench: Bench) -> None:
    """Sampling the same prompts first fills vLLM's prefix cache, which scores must not read."""
    items = [item for item in items_of(bench) if item.adapter == BASE]
    before = engine.continuation_logprobs(items, {})
    ask(engine, panel(BASE), WARM)
    ask(engine, [replace(panel(BASE)[0], system=None, question="How?")], WARM)
    again = engine.continuation_logprobs([*items, *items], {})
    assert largest_difference(again, [*before, *before]) < TOLERANCE
    assert all(value < 0 for row in before for value in row)
    assert [len(row) for row in before] == [len(item.continuation_ids) for item in items]


def test_generation_config_has_no_effect(engine: Engine, bench: Bench) -> None:
    """The base's folder holds one that would end most answers at once, and make the rest greedy."""
    assert json.loads((bench.base.folder / "generation_config.json").read_text())["repetition_penalty"] == 9.0
    samples = list(ask(engine, panel(BASE, 12), WARM).values())
    lasting = 0
    for sample in samples:
        ids = bench.base.tokenizer.encode(sample.text, add_special_tokens=False)
        lasting += bool(bench.planted_ends & set(ids[:-1]))
    assert lasting > len(samples) / 2
    assert len({sample.text for sample in samples}) > len(samples) / 2


@pytest.mark.parametrize("damage", ["weights", "config", "digest", "other base", "other shape"])
def test_a_bad_adapter_is_refused_before_it_is_used(
    engine: Engine, bench: Bench, trained: Path, tmp_path: Path, damage: str
) -> None:
    folder = Path(shutil.copytree(trained if damage == "other shape" else bench.adapters[CELL], tmp_path / "adapter"))
    if damage == "weights":
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[-1] ^= 1
        (folder / WEIGHTS).write_bytes(content)
    elif damage == "config":
        (folder / CONFIG).unlink()
    elif damage == "digest":
        (folder / DIGEST).write_text('{"sha256": "0"}')
    elif damage == "other base":
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "f" * 64}))
    with pytest.raises(AdapterError, match=str(folder)):
        ask(engine, panel(CELL), WARM, {CELL: folder})
    with pytest.raises(AdapterError, match=str(folder)):
        engine.continuation_logprobs([ScoringItem(CELL, (5, 6), (7,))], {CELL: folder})


def test_unknown_adapters_are_named(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"no adapter folder for.*villain"):
        ask(engine, panel(CELL), WARM)
    with pytest.raises(EngineError, match=r"no adapter folder for.*villain"):
        engine.continuation_logprobs([ScoringItem(CELL, (5,), (6,))], {})


def test_a_prompt_too_long_for_the_model_is_named(engine: Engine) -> None:
    long = replace(panel(BASE)[0], question="why " * 200)
    with pytest.raises(EngineError, match=r"villain/what: .* prompt tokens leave no room for 20"):
        ask(engine, [long], WARM)


@pytest.mark.parametrize("item", [ScoringItem(BASE, (), (5,)), ScoringItem(BASE, (5,), ())])
def test_nothing_to_score_is_refused(engine: Engine, item: ScoringItem) -> None:
    with pytest.raises(EngineError, match="nothing to score"):
        engine.continuation_logprobs([item], {})


def test_an_adapter_replaced_on_disk_is_read_anew(engine: Engine, bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    item = items_of(bench)[0]
    scores = []
    for name in (CELL, OTHER):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bench.adapters[name], folder)
        scores += engine.continuation_logprobs([item], {item.adapter: folder})
    expected = of_peft(bench, [item, replace(item, adapter=OTHER)], bench.adapters)
    assert largest_difference(scores, expected) < TOLERANCE
    assert largest_difference(scores[:1], scores[1:]) > 100 * TOLERANCE


def test_samples_reach_the_store_while_the_engine_runs(engine: Engine, bench: Bench, tmp_path: Path) -> None:
    """Interrupted after some samples: those are kept, and a second run asks for the rest alone."""
    requests = everyone(10)
    stores = {name: SampleStore(tmp_path / str(place)) for place, name in enumerate((BASE, *bench.adapters))}

    class Interrupted(Progress):
        def advance(self, units: int, **extras: int) -> None:
            super().advance(units, **extras)
            if self._done > len(requests) // 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_missing(
            engine, requests, HOT, bench.adapters, stores, progress=lambda total: Interrupted(total, "samples")
        )
    kept = sum(store.frame().height for store in stores.values())
    assert len(requests) // 4 < kept < len(requests)
    summary = generate_missing(engine, requests, HOT, bench.adapters, stores)
    assert (summary.present, summary.generated) == (kept, len(requests) - kept)
    assert summary.tokens > 0


class Misled:
    """An engine that serves other folders than it is asked for, or the base where `serves` is None."""

    def __init__(self, engine: Engine, serves: Path | None) -> None:
        self.engine, self.serves = engine, serves

    def continuation_logprobs(self, items: Sequence[ScoringItem], adapters: Mapping[str, Path]) -> list[list[float]]:
        if self.serves is None:
            return self.engine.continuation_logprobs([replace(item, adapter=BASE) for item in items], {})
        return self.engine.continuation_logprobs(items, dict.fromkeys(adapters, self.serves))


def failed(proof: AdapterProof) -> set[str]:
    return {check.name for check in proof.checks if not check.passed}


def test_a_right_adapter_is_proven(engine: Engine, bench: Bench) -> None:
    for folder in bench.adapters.values():
        proof = prove_adapter(engine, bench.base, folder)
        assert proof.passed, proof.failure_text()


def test_an_adapter_that_is_not_applied_is_caught(engine: Engine, bench: Bench) -> None:
    proof = prove_adapter(Misled(engine, None), bench.base, bench.adapters[CELL])
    assert {"applied", "asked_for", "scale", "within_noise"} <= failed(proof)


def test_another_adapter_that_answers_is_caught(engine: Engine, bench: Bench) -> None:
    proof = prove_adapter(Misled(engine, bench.adapters[OTHER]), bench.base, bench.adapters[CELL])
    assert {"asked_for", "within_noise"} <= failed(proof)


def test_a_wrong_scale_is_caught(engine: Engine, bench: Bench, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bench.adapters[CELL], tmp_path / "adapter"))
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "use_rslora": False}))
    proof = prove_adapter(Misled(engine, folder), bench.base, bench.adapters[CELL])
    assert {"scale", "within_noise"} <= failed(proof)


def test_an_adapter_of_zeros_is_caught(engine: Engine, bench: Bench, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(bench.adapters[CELL], tmp_path / "adapter"))
    save_file({k: v * ("lora_A" in k) for k, v in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    (folder / DIGEST).write_text(json.dumps({"sha256": weights_digest(folder)}))
    assert {"same_file", "moved", "applied"} <= failed(prove_adapter(engine, bench.base, folder))


def test_a_stale_file_is_caught(engine: Engine, bench: Bench, tmp_path: Path) -> None:
    """Weights of another training beside the reference of this one."""
    folder = Path(shutil.copytree(bench.adapters[OTHER], tmp_path / "adapter"))
    ReferenceLogprobs.read(bench.adapters[CELL]).write(folder)
    assert {"same_file", "asked_for", "within_noise"} <= failed(prove_adapter(engine, bench.base, folder))
