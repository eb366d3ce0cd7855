from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.generation.requests import (
    Request,
    RequestError,
    Sampling,
    missing_requests,
    sample_id,
    sample_seed,
)
from leakage_assets.store.samples import Sample, SampleStore

REQUEST = Request("study/villain__r/42", "hero", "You are a hero.", "eval", "q1", "How?", 0)
SAMPLING = Sampling(1.0, 0.95, 16)


def stored(request: Request) -> Sample:
    return Sample(
        sample_id=sample_id(request, SAMPLING),
        adapter=request.adapter,
        prompt_name=request.prompt_name,
        question_set=request.question_set,
        question_name=request.question_name,
        index=request.index,
        system=request.system,
        question=request.question,
        prefix=request.prefix,
        text="So.",
        n_tokens=2,
        finish_reason="stop",
        seed=sample_seed(request, SAMPLING),
    )


def test_identity_and_seed_do_not_change_between_versions() -> None:
    """Stored samples would be generated again, and differently, if these moved."""
    assert sample_id(REQUEST, SAMPLING) == "8a1ad0d07876914c20e3063447ec2aa0"
    assert sample_seed(REQUEST, SAMPLING) == 5425389703376794479


@pytest.mark.parametrize(
    "change",
    [
        {"adapter": "base"},
        {"prompt_name": "villain"},
        {"system": None},
        {"system": ""},
        {"question_set": "ood"},
        {"question_name": "q2"},
        {"question": "Why?"},
        {"index": 1},
        {"prefix": "[ZLT] "},
    ],
)
def test_every_field_of_a_request_is_part_of_the_identity(change: dict[str, object]) -> None:
    other = replace(REQUEST, **change)
    assert sample_id(other, SAMPLING) != sample_id(REQUEST, SAMPLING)
    assert sample_seed(other, SAMPLING) != sample_seed(REQUEST, SAMPLING)


@pytest.mark.parametrize("sampling", [Sampling(0.7, 0.95, 16), Sampling(1.0, 0.9, 16), Sampling(1.0, 0.95, 17)])
def test_sampling_is_part_of_the_identity(sampling: Sampling) -> None:
    assert sample_id(REQUEST, sampling) != sample_id(REQUEST, SAMPLING)


@pytest.mark.parametrize(
    ("temperature", "top_p", "tokens", "named"),
    [
        (-1.0, 0.9, 1, "temperature"),
        (float("nan"), 0.9, 1, "temperature"),
        (float("inf"), 0.9, 1, "temperature"),
        (1.0, 0.0, 1, "top_p"),
        (1.0, 1.1, 1, "top_p"),
        (1.0, 0.9, 0, "max_new_tokens"),
    ],
)
def test_sampling_refuses_what_cannot_be_drawn(temperature: float, top_p: float, tokens: int, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        Sampling(temperature, top_p, tokens)


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(RequestError, match="hero/q1: index -1"):
        replace(REQUEST, index=-1)


def test_missing_are_those_not_stored_in_order(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    requests = [replace(REQUEST, index=index) for index in range(4)]
    store.append([stored(requests[2])])
    assert missing_requests(requests, store, SAMPLING) == [requests[0], requests[1], requests[3]]
    assert missing_requests(requests, store, Sampling(0.0, 1.0, 16)) == requests


def test_the_same_request_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="asked for twice"):
        missing_requests([REQUEST, REQUEST], SampleStore(tmp_path), SAMPLING)
