from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from leakage_assets.generation import run
from leakage_assets.generation.engine import EngineError
from leakage_assets.generation.requests import Request, Sampling
from leakage_assets.generation.run import generate_missing
from leakage_assets.generation.transformers_engine import TransformersEngine
from leakage_assets.models import BaseModel
from leakage_assets.store.samples import Sample, SampleStore
from leakage_assets_tests.generation.panels import CELL, SAMPLING, panel


class Killed(TransformersEngine):
    """Dies after some batches, as a killed process does."""

    def __init__(self, base: BaseModel, batch_size: int, lives: int) -> None:
        super().__init__(base, batch_size)
        self.lives = lives

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path]
    ) -> Iterator[list[Sample]]:
        for count, batch in enumerate(super().generate(requests, sampling, adapters)):
            if count == self.lives:
                raise KeyboardInterrupt
            yield batch


class Forgetful(TransformersEngine):
    """Loses the last batch."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path]
    ) -> Iterator[list[Sample]]:
        yield from list(super().generate(requests, sampling, adapters))[:-1]


def stores(folder: Path) -> dict[str, SampleStore]:
    return {"base": SampleStore(folder / "base"), CELL: SampleStore(folder / "cell")}


@pytest.mark.parametrize("lives", [1, 4, 7])
def test_a_killed_run_resumes_to_the_very_samples_of_an_undisturbed_one(
    base: BaseModel, trained: Path, tmp_path: Path, lives: int
) -> None:
    requests, adapters = [*panel("base"), *panel(CELL)], {CELL: trained}
    undisturbed, resumed = stores(tmp_path / "undisturbed"), stores(tmp_path / "resumed")
    generate_missing(TransformersEngine(base, 5), requests, SAMPLING, adapters, undisturbed)
    with pytest.raises(KeyboardInterrupt):
        generate_missing(Killed(base, 5, lives), requests, SAMPLING, adapters, resumed)
    summary = generate_missing(TransformersEngine(base, 5), requests, SAMPLING, adapters, resumed)
    assert summary.present + summary.generated == summary.requested == 48
    assert summary.present == {1: 5, 4: 20, 7: 34}[lives]  # batches of 5, 5, 5, 5, 4 for each adapter
    for name in ("base", CELL):
        assert resumed[name].frame().equals(undisturbed[name].frame())


def test_a_larger_panel_generates_only_what_is_new(base: BaseModel, tmp_path: Path) -> None:
    filled = {"base": SampleStore(tmp_path)}
    engine = TransformersEngine(base)
    first = generate_missing(engine, panel("base", 2), SAMPLING, {}, filled)
    more = generate_missing(engine, panel("base", 3), SAMPLING, {}, filled)
    again = generate_missing(engine, panel("base", 3), SAMPLING, {}, filled)
    assert [(s.present, s.generated) for s in (first, more, again)] == [(0, 16), (16, 8), (24, 0)]
    frame = filled["base"].frame()
    assert frame.height == 24
    assert first.tokens + more.tokens == frame["n_tokens"].sum()
    assert first.truncated + more.truncated == (frame["finish_reason"] == "length").sum()


def test_an_engine_that_loses_samples_is_an_error_and_keeps_the_rest(base: BaseModel, tmp_path: Path) -> None:
    filled = {"base": SampleStore(tmp_path)}
    with pytest.raises(EngineError, match="returned 20 of 24"):
        generate_missing(Forgetful(base, 5), panel("base"), SAMPLING, {}, filled)
    assert filled["base"].frame().height == 20


def test_an_adapter_without_store_is_named(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no sample store for.*villain"):
        generate_missing(TransformersEngine(base), panel(CELL), SAMPLING, {}, {"base": SampleStore(tmp_path)})


@pytest.mark.parametrize(("seconds", "size"), [(0.0, 64), (0.3, 8), (5.0, 8), (0.001, 700)])
def test_no_more_than_the_promised_work_waits_to_be_stored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, size: int
) -> None:
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])

    class Counting:
        stored = 0
        stored_at = 0.0

        def append(self, samples: Sequence[Sample]) -> None:
            self.stored += len(samples)
            self.stored_at = now[0]

    store = Counting()
    writer = run._Writer({"base": store})  # type: ignore[dict-item]
    sample = Sample("i", "base", "p", "s", "q", 0, None, "q", "", "t", 1, "stop", 0)
    for batch in range(1, 60):
        now[0] += seconds
        writer.add([sample] * size)
        assert batch * size - store.stored <= run.COMMIT_SAMPLES
        assert now[0] - store.stored_at <= run.COMMIT_SECONDS
    writer.commit()
    assert store.stored == 59 * size == writer.samples
