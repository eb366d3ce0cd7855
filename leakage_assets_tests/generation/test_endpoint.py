"""The writer behind an endpoint: what is asked, what is retried, and what is refused, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from leakage_assets.generation.endpoint import REFUSED, Endpoint, EndpointError, EndpointWriter
from leakage_assets.generation.requests import Request, Sampling, sample_seed
from leakage_assets.generation.run import generate_missing
from leakage_assets.store.samples import SampleStore

SAMPLING = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=64)
ENDPOINT = Endpoint("http://nowhere.test/v1/", "writer", key="secret", concurrency=2)


def requests(count: int = 3) -> list[Request]:
    return [Request(ENDPOINT.name, "neutral_wrong", "Be brief.", "r", f"q{i}", f"Why {i}?", 0) for i in range(count)]


def answer(text: str | None = "Because.", reason: str = "stop", **message: object) -> httpx.Response:
    choice = {"message": {"content": text, **message}, "finish_reason": reason}
    return httpx.Response(200, json={"choices": [choice], "usage": {"completion_tokens": 7}})


class Server:
    """Answers calls in turn with what `say` makes of their number and body, and keeps them."""

    def __init__(self, say: Callable[[int, dict[str, object]], httpx.Response]) -> None:
        self.say, self.calls, self.waits = say, [], []

    def __call__(self, call: httpx.Request) -> httpx.Response:
        self.calls.append(call)
        return self.say(len(self.calls), json.loads(call.content))

    def writer(self, endpoint: Endpoint = ENDPOINT) -> EndpointWriter:
        return EndpointWriter(endpoint, transport=httpx.MockTransport(self), sleep=self.waits.append)


def written(server: Server, count: int = 3) -> dict[str, tuple[str, int, str]]:
    writer = server.writer()
    samples = [s for batch in writer.generate(requests(count), SAMPLING, {}) for s in batch]
    writer.close()
    return {s.question_name: (s.text, s.n_tokens, s.finish_reason) for s in samples}


def test_what_is_asked_and_what_comes_back() -> None:
    server = Server(lambda _, body: answer(f"re: {body['messages'][1]['content']}", "length"))
    assert written(server) == {f"q{i}": (f"re: Why {i}?", 7, "length") for i in range(3)}
    call = next(call for call in server.calls if b"Why 0?" in call.content)
    assert str(call.url) == "http://nowhere.test/v1/chat/completions"
    assert call.headers["authorization"] == "Bearer secret"
    assert json.loads(call.content) == {
        "model": "writer",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why 0?"}],
        "temperature": 0.0,
        "top_p": 1.0,
        "max_tokens": 64,
        "seed": sample_seed(requests()[0], SAMPLING) % 2**31,
    }


def test_the_key_is_never_shown_or_part_of_what_an_endpoint_is() -> None:
    assert "secret" not in repr(ENDPOINT)
    assert Endpoint("http://nowhere.test/v1/", "writer", key="another", concurrency=2) == ENDPOINT


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (lambda: answer(None, refusal="I will not."), f"{REFUSED}I will not."),
        (lambda: answer("", "content_filter"), REFUSED),
        (lambda: httpx.Response(400, json={"error": {"code": "content_filter"}}), REFUSED),
    ],
)
def test_a_reported_refusal_is_a_text_that_says_so(response: Callable[[], httpx.Response], text: str) -> None:
    assert written(Server(lambda *_: response()), 1)["q0"][0] == text


def test_what_may_pass_is_tried_again_with_longer_pauses() -> None:
    def say(number: int, _: object) -> httpx.Response:
        if number == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(503) if number == 2 else answer()

    server = Server(say)
    assert written(server, 1)["q0"][0] == "Because."
    assert len(server.calls) == 3 and server.waits == [1.0, 2.0]


def test_a_server_that_asks_to_wait_is_waited_for() -> None:
    server = Server(lambda n, _: httpx.Response(429, headers={"retry-after": "9"}) if n == 1 else answer())
    assert written(server, 1) and server.waits == [9.0]


def down(*_: object) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (down, r"ConnectError: connection refused after 4 attempts; start the server .* what was written is kept"),
        (lambda *_: httpx.Response(500, text="broken"), "status 500, 'broken' after 4 attempts"),
        (lambda *_: httpx.Response(401, text="bad key"), "status 401, 'bad key'; check model, key"),
        (lambda *_: httpx.Response(200, text="<html>"), "no JSON"),
        (lambda *_: httpx.Response(200, json=[]), "a JSON list"),
        (lambda *_: httpx.Response(200, json={"choices": []}), "no chat completion"),
        (lambda *_: httpx.Response(200, json={"choices": ["text"]}), "no chat completion"),
    ],
)
def test_an_endpoint_that_does_not_serve_is_named(say, words: str) -> None:
    with pytest.raises(
        EndpointError, match=rf"endpoint:writer at http://nowhere.test/v1/, neutral_wrong/q0: .*{words}"
    ):
        written(Server(say), 1)


def test_an_endpoint_that_is_down_leaves_nothing(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "samples")
    with pytest.raises(EndpointError, match="ConnectError"):
        generate_missing(Server(down).writer(), requests(), SAMPLING, {}, {ENDPOINT.name: store})
    assert store.frame().is_empty() and not list(tmp_path.rglob("*.parquet"))


def test_what_was_written_before_a_failure_is_kept_and_only_the_rest_is_asked_again(tmp_path: Path) -> None:
    def say(_: int, body: dict[str, object]) -> httpx.Response:
        return httpx.Response(403, text="no") if "Why 5?" in str(body) else answer()

    store, stores = SampleStore(tmp_path), {}
    stores[ENDPOINT.name] = store
    with pytest.raises(EndpointError, match="q5"):
        generate_missing(Server(say).writer(), requests(40), SAMPLING, {}, stores)
    kept = store.frame().height
    assert 4 <= kept < 39  # those before it and under way, not the forty
    mended = Server(lambda *_: answer())
    summary = generate_missing(mended.writer(), requests(40), SAMPLING, {}, stores)
    assert (summary.present, summary.generated, len(mended.calls)) == (kept, 40 - kept, 40 - kept)


@pytest.mark.parametrize("change", [{"adapter": "base"}, {"prefix": "Well"}])
def test_only_its_own_whole_texts_can_be_asked_of_it(change: dict[str, str]) -> None:
    first = requests()[0]
    fields = {name: getattr(first, name) for name in first.__dataclass_fields__}
    with pytest.raises(EndpointError, match="ask for its own texts only"):
        next(Server(down).writer().generate([Request(**{**fields, **change})], SAMPLING, {}))
