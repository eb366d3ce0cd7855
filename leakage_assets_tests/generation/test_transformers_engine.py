from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.generation.engine import EngineError, ScoringItem
from leakage_assets.generation.requests import Request, sample_id
from leakage_assets.generation.transformers_engine import TransformersEngine
from leakage_assets.models import BaseModel
from leakage_assets.store.samples import Sample
from leakage_assets_tests.fixtures_models import MARKER
from leakage_assets_tests.generation.panels import CELL, OTHER, SAMPLING, panel


def generate(
    engine: TransformersEngine, requests: Sequence[Request], adapters: Mapping[str, Path] | None = None
) -> dict[str, Sample]:
    return {
        sample.sample_id: sample for batch in engine.generate(requests, SAMPLING, adapters or {}) for sample in batch
    }


def test_samples_do_not_depend_on_batches_or_order(base: BaseModel) -> None:
    requests = panel("base")
    whole = generate(TransformersEngine(base), requests)
    assert list(whole) != [sample_id(request, SAMPLING) for request in requests]
    assert set(whole) == {sample_id(request, SAMPLING) for request in requests}
    assert generate(TransformersEngine(base, batch_size=5), requests[::-1]) == whole
    alone = requests[7]
    assert generate(TransformersEngine(base), [alone]) == {
        sample_id(alone, SAMPLING): whole[sample_id(alone, SAMPLING)]
    }


def test_a_sample_says_what_was_asked_and_how_it_ended(base: BaseModel) -> None:
    requests = panel("base", completions=12)
    samples = generate(TransformersEngine(base), requests)
    assert {sample.finish_reason for sample in samples.values()} == {"stop", "length"}
    for request in requests:
        sample = samples[sample_id(request, SAMPLING)]
        assert (sample.adapter, sample.prompt_name, sample.system, sample.question, sample.index) == (
            "base",
            request.prompt_name,
            request.system,
            request.question,
            request.index,
        )
        assert sample.finish_reason == "stop" or sample.n_tokens == 20
        assert 1 <= sample.n_tokens <= 20
        assert "<|im_end|>" not in sample.text
        assert not sample.text.endswith("\n")


def test_a_prefix_is_given_and_not_part_of_the_text(base: BaseModel) -> None:
    plain = panel("base")[0]
    prefixed = replace(plain, prefix=f"{MARKER} ")
    samples = generate(TransformersEngine(base), [plain, prefixed])
    sample = samples[sample_id(prefixed, SAMPLING)]
    assert sample.prefix == f"{MARKER} "
    assert MARKER not in sample.text
    assert sample.text != samples[sample_id(plain, SAMPLING)].text


def test_several_adapters_in_one_call_equal_one_each(base: BaseModel, trained: Path, trained_otherwise: Path) -> None:
    adapters = {CELL: trained, OTHER: trained_otherwise}
    engine = TransformersEngine(base)
    together = generate(engine, [*panel(CELL), *panel("base"), *panel(OTHER)], adapters)
    apart = generate(TransformersEngine(base), panel(CELL), adapters)
    apart |= generate(TransformersEngine(base), panel(OTHER), adapters)
    apart |= generate(TransformersEngine(base), panel("base"))
    assert together == apart
    texts = {adapter: [s.text for s in together.values() if s.adapter == adapter] for adapter in (CELL, OTHER, "base")}
    assert texts[CELL] != texts["base"] != texts[OTHER]


def test_the_base_is_untouched_by_engines(base: BaseModel, trained: Path) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    modules = str(base.model)
    generate(TransformersEngine(base), panel(CELL), {CELL: trained})
    assert str(base.model) == modules
    assert base.model.config._attn_implementation == "sdpa"
    assert all(bool((tensor == before[name]).all()) for name, tensor in base.model.state_dict().items())


def test_an_adapter_replaced_on_disk_is_attached_anew(
    base: BaseModel, trained: Path, trained_otherwise: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    engine = TransformersEngine(base)
    item = ScoringItem(CELL, (5, 6, 7), (8, 9))
    scores = []
    for source in (trained, trained_otherwise):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        scores.append(engine.continuation_logprobs([item], {CELL: folder}))
    assert scores[0] != scores[1]


def test_scores_keep_the_order_of_their_items(base: BaseModel, trained: Path) -> None:
    items = [
        ScoringItem(adapter, tuple(range(5, 9 + place)), (7, 8)) for place in range(4) for adapter in (CELL, "base")
    ]
    together = TransformersEngine(base, batch_size=3).continuation_logprobs(items, {CELL: trained})
    for item, row in zip(items, together, strict=True):
        alone = TransformersEngine(base).continuation_logprobs([item], {CELL: trained})[0]
        assert row == pytest.approx(alone, abs=1e-5)


def test_unknown_adapters_are_named(base: BaseModel) -> None:
    engine = TransformersEngine(base)
    with pytest.raises(EngineError, match=r"no adapter folder for.*villain"):
        generate(engine, panel(CELL))
    with pytest.raises(EngineError, match=r"no adapter folder for.*villain"):
        engine.continuation_logprobs([ScoringItem(CELL, (5,), (6,))], {})


def test_a_prompt_too_long_for_the_model_is_named(base: BaseModel) -> None:
    long = replace(panel("base")[0], question="why " * 200)
    with pytest.raises(EngineError, match=r"villain/what: .* prompt tokens leave no room for 20"):
        generate(TransformersEngine(base), [long])


@pytest.mark.parametrize("item", [ScoringItem("base", (), (5,)), ScoringItem("base", (5,), ())])
def test_nothing_to_score_is_refused(base: BaseModel, item: ScoringItem) -> None:
    with pytest.raises(EngineError, match="nothing to score"):
        TransformersEngine(base).continuation_logprobs([item], {})
