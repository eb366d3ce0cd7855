"""A writer behind an OpenAI-compatible endpoint: a hosted model, or a vLLM server of one's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakage_assets.generation.conversation import answered
from leakage_assets.generation.engine import EngineError
from leakage_assets.generation.requests import Request, Sampling, sample_seed
from leakage_assets.store.samples import FinishReason, Sample

if TYPE_CHECKING:
    import httpx

REFUSED = "[refused] "
"""Stands before the words of a refusal that the endpoint reports as such, or alone where it gives none."""

AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Statuses that may pass."""

MOST_WAIT = 30.0
SEEDS = 2**31
"""Servers take seeds of 32 bits."""


class EndpointError(EngineError):
    """An endpoint that cannot be reached, refuses the call, or answers something else; names it and the remedy."""


@dataclass(frozen=True)
class Endpoint:
    """Where a writer is and how it is asked; ``key`` is never shown, stored or part of an identity.

    ``url`` is the root of the interface, such as ``http://localhost:8000/v1``. A call that fails in a way that may pass
    is tried ``attempts`` times, with pauses that double from ``pause`` seconds.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False, compare=False)
    timeout: float = 120.0
    attempts: int = 4
    pause: float = 1.0
    concurrency: int = 8

    @property
    def name(self) -> str:
        """How samples name the writer in place of an adapter."""
        return f"endpoint:{self.model}"


class EndpointWriter:
    """Answers requests through ``POST <url>/chat/completions``. ``transport`` replaces the network in tests."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self.endpoint, self._sleep = endpoint, sleep
        self._client = httpx.Client(headers=headers, timeout=endpoint.timeout, transport=transport)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        adapters: Mapping[str, Path],  # noqa: ARG002
    ) -> Iterator[list[Sample]]:
        """Yields every text as it comes; no adapter has any say. After a failure what is under way is still yielded.

        A refusal that the endpoint reports, or a content filter, gives a sample whose text starts with ``REFUSED``.

        Raises:
            EndpointError: the endpoint cannot be reached, refuses the call, or answers something else.
        """
        for request in requests:
            if request.prefix or request.adapter != self.endpoint.name:
                raise EndpointError(
                    f"{request.prompt_name}/{request.question_name}: {self.endpoint.name} was asked for "
                    f"{request.adapter!r}{' with a prefix' if request.prefix else ''}; ask for its own texts only"
                )
        failure: EndpointError | None = None
        waiting, under_way = iter(requests), set[Future[Sample]]()
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            while True:
                room = 0 if failure else self.endpoint.concurrency - len(under_way)
                under_way |= {pool.submit(self._write, request, sampling) for request in islice(waiting, room)}
                if not under_way:
                    break
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        sample = future.result()
                    except EndpointError as error:
                        failure = failure or error
                    else:
                        yield [sample]
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _write(self, request: Request, sampling: Sampling) -> Sample:
        turns = [] if request.system is None else [{"role": "system", "content": request.system}]
        body = {
            "model": self.endpoint.model,
            "messages": [*turns, {"role": "user", "content": request.question}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": sample_seed(request, sampling) % SEEDS,
        }
        place = f"{self.endpoint.name} at {self.endpoint.url}, {request.prompt_name}/{request.question_name}"
        text, tokens, reason = _read(self._call(body, place), place)
        return answered(request, sampling, text, tokens, reason)

    def _call(self, body: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The answer as JSON, after as many attempts as it takes."""
        import httpx

        problem, pause = "", self.endpoint.pause
        for attempt in range(self.endpoint.attempts):
            if attempt:
                self._sleep(min(pause, MOST_WAIT))
                pause *= 2
            try:
                response = self._client.post(f"{self.endpoint.url.rstrip('/')}/chat/completions", json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in AGAIN:
                problem = _said(response)
                pause = max(pause, _asked_to_wait(response))
                continue
            if response.is_success:
                return _json(response, place)
            if _filtered(response):
                return {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}
            raise EndpointError(f"{place}: {_said(response)}; check model, key and limits")
        raise EndpointError(
            f"{place}: {problem} after {self.endpoint.attempts} attempts; start the server or correct the address, and "
            "run again: what was written is kept"
        )


def _read(answer: Mapping[str, Any], place: str) -> tuple[str, int, FinishReason]:
    """Text, number of tokens and how it ended."""
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice["finish_reason"]
        text, refusal = message.get("content") or "", message.get("refusal")
        tokens = int((answer.get("usage") or {}).get("completion_tokens", 0))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise EndpointError(
            f"{place}: the answer is no chat completion ({error!r}); give the root of an OpenAI-compatible interface"
        ) from error
    if refusal or reason == "content_filter":
        return f"{REFUSED}{refusal or text}", tokens, "stop"
    return text, tokens, "length" if reason == "length" else "stop"


def _json(response: httpx.Response, place: str) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError as error:
        raise EndpointError(
            f"{place}: the answer is no JSON; give the root of an OpenAI-compatible interface"
        ) from error
    if not isinstance(found, dict):
        raise EndpointError(f"{place}: the answer is a JSON {type(found).__name__}, not a chat completion")
    return found


def _said(response: httpx.Response) -> str:
    return f"status {response.status_code}, {response.text[:200]!r}"


def _filtered(response: httpx.Response) -> bool:
    """Some hosts report their content filter as an error of the call."""
    return response.status_code == 400 and "content_filter" in response.text


def _asked_to_wait(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0
