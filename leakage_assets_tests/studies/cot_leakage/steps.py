"""What the pipeline does with writers and panels, without its artifacts: ask for what is missing, and read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
from transformers import PreTrainedTokenizerBase

from leakage_assets.generation.engine import Engine, Sampler
from leakage_assets.generation.requests import Request, Sampling, sample_id
from leakage_assets.generation.run import GenerationSummary, generate_missing
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.samples import SampleStore
from leakage_assets.studies.cot_leakage.panels import MULTIPLE_CHOICE, AnswerPanel, Grid, RationalePanel, as_choices
from leakage_assets.studies.cot_leakage.writing import SAMPLING


def have_written(writer: Sampler, requests: Sequence[Request], store: SampleStore) -> GenerationSummary:
    """Have the texts written that the store lacks."""
    return generate_missing(writer, requests, SAMPLING, {}, {request.adapter: store for request in requests})


def both_steps(
    grid: Grid,
    stimuli: Stimuli,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    stores: Mapping[str, SampleStore],
    *,
    repeat: int = 0,
) -> pl.DataFrame:
    """The rationales of the adapters named by the stores, their answers, and the letters read from them."""
    first, second = RationalePanel("rationales", grid, repeat), AnswerPanel("main", grid, repeat, "rationales")
    choices = []
    for name, store in stores.items():
        rationales = _asked(engine, first.chained_requests(stimuli, name, None), first.sampling, store)
        answers = _asked(engine, second.chained_requests(stimuli, name, rationales), second.sampling, store)
        readings = second.readings(stimuli, answers, engine, tokenizer, {})
        scores = MULTIPLE_CHOICE.score(None, answers.join(readings, on="sample_id", maintain_order="left"))  # type: ignore[arg-type]
        choices.append(as_choices(scores))
    return pl.concat(choices)


def _asked(engine: Engine, requests: Sequence[Request], sampling: Sampling, store: SampleStore) -> pl.DataFrame:
    """Exactly the samples of these requests; those that are stored are not asked again."""
    generate_missing(engine, requests, sampling, {}, {requests[0].adapter: store})
    wanted = pl.DataFrame({"sample_id": [sample_id(r, sampling) for r in requests]})
    return store.frame().join(wanted, on="sample_id", how="semi", maintain_order="left")
