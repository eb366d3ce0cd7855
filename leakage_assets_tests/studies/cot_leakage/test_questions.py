"""Where questions come from: rows of ARC's format, the hub that cannot be reached, and the tiny world."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from leakage_assets.measurement.multiple_choice import ChoiceError, label_report
from leakage_assets.profiles import PROFILES
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.cot_leakage.plan import PUBLISHED, with_own_questions
from leakage_assets.studies.cot_leakage.questions import (
    ARC_CHALLENGE,
    OWN,
    Questions,
    QuestionSource,
    QuestionsUnavailable,
    read_hub_questions,
    read_rows,
    tiny_questions,
)
from leakage_assets.world.choices import is_held_out


def row(name: str, labels: str = "ABCD", answer: str = "B", **changes: Any) -> dict[str, Any]:
    options = [f"{name} {label}" for label in labels]
    return {
        "id": name,
        "question": f"{name}?",
        "choices": {"text": options, "label": list(labels)},
        "answerKey": answer,
    } | changes


def test_rows_without_four_options_are_left_out_and_counted() -> None:
    rows = [row("a"), row("b", "1234", "3"), row("c", "ABCDE"), row("d", "ABC"), row("e", answer="F")]
    kept, report = read_rows("test", rows)
    assert [(q.name, q.answer, q.lettered) for q in kept] == [("a", "B", True), ("b", "3", False)]
    assert (report.kept, report.lettered, report.numbered) == (2, 1, 1)
    assert report.dropped == {"3 options": 1, "5 options": 1, "malformed": 1}
    relabelled, report = read_rows("test", rows, relabel=True)
    assert [q.answer for q in relabelled] == ["B", "C"] and report.highest_accuracy == 1.0


@pytest.mark.parametrize("broken", [{"choices": None}, {"choices": {"text": []}}])
def test_rows_of_another_format_are_no_questions(broken: dict[str, Any]) -> None:
    with pytest.raises(QuestionsUnavailable, match="split test, row 1: no field"):
        read_rows("test", [row("a"), row("b", **broken)])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)
    yield module


def test_both_splits_are_read_at_the_pinned_revision(hub: ModuleType) -> None:
    calls = []

    def load(repository: str, name: str, *, split: str, revision: str) -> list[dict[str, Any]]:
        calls.append((repository, name, split, revision))
        return [row(f"{split}1"), row(f"{split}2", "ABC")]

    hub.load_dataset = load
    found = read_hub_questions(ARC_CHALLENGE)
    pinned = ("allenai/ai2_arc", "ARC-Challenge")
    assert [(c[:2], c[2]) for c in calls] == [(pinned, "train"), (pinned, "test")]
    assert {len(c[3]) for c in calls} == {40} and [q.name for q in found.evaluation] == ["test1"]
    assert [r.dropped for r in found.reports] == [{"3 options": 1}] * 2


@pytest.mark.parametrize(("dropped", "fatal"), [(2, False), (3, True), (50, True)])
def test_too_many_questions_that_cannot_be_asked_are_fatal(
    hub: ModuleType, stimuli: Stimuli, dropped: int, fatal: bool
) -> None:
    def load(_: str, __: str, *, split: str, revision: str) -> list[dict[str, Any]]:
        return [row(f"{split}{i}", "ABC" if split == "test" and i < dropped else "ABCD") for i in range(100)]

    hub.load_dataset = load
    source = QuestionSource(replace(ARC_CHALLENGE, revision=f"{dropped:040d}"), 100, 100)
    if not fatal:
        assert len(source.read(stimuli).evaluation) == 100 - dropped
        return
    with pytest.raises(QuestionsUnavailable, match=rf"split test: {dropped} of 100 .* \({dropped} 3 options\), more"):
        source.read(stimuli)


@pytest.mark.parametrize("error", [ConnectionError("offline"), FileNotFoundError("no such"), ValueError("no config")])
def test_offline_and_uncached_is_said_with_the_remedy(hub: ModuleType, error: Exception) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    hub.load_dataset = load
    with pytest.raises(
        QuestionsUnavailable, match=rf"ARC-Challenge, train\) at 210d026.*{type(error).__name__}.*allow the"
    ):
        read_hub_questions(ARC_CHALLENGE)


def test_a_question_that_is_trained_on_and_asked_is_refused() -> None:
    kept, report = read_rows("train", [row("a"), row("b")])
    with pytest.raises(ChoiceError, match="b of the evaluation is trained on"):
        Questions(kept, kept[1:], (report, report))
    with pytest.raises(ChoiceError, match="a: occurs twice"):
        Questions((kept[0], kept[0]), (), (report, label_report("x", [])))


def test_the_tiny_world_asks_what_pretraining_never_had(stimuli: Stimuli, questions: Questions) -> None:
    assert questions == tiny_questions(stimuli, train=240, evaluation=60)
    assert (len(questions.train), len(questions.evaluation)) == (240, 60)
    assert all(is_held_out(q.options) and q.lettered for q in (*questions.train, *questions.evaluation))
    sets = [frozenset(q.options) for q in (*questions.train, *questions.evaluation)]
    assert len(set(sets)) == 300
    for question in questions.evaluation:
        (topic,) = [t for t in stimuli.world.topics if t.name == question.topic]
        assert question.option(question.answer) in topic.facts
    assert tiny_questions(stimuli, train=240, evaluation=30).evaluation == questions.evaluation[:30]


def test_a_world_that_is_too_small_is_named(stimuli: Stimuli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leakage_assets.studies.cot_leakage.questions.ATTEMPTS", 0)
    with pytest.raises(ChoiceError, match="split train: 5 questions wanted, the tiny world gave 0"):
        tiny_questions(stimuli, train=5, evaluation=1)


# ------------------------------------------------------------------ a folder of one's own


def own(folder: Path, train: int = 5, test: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("test", test)):
        lines = [json.dumps(row(f"{name}_{place}")) for place in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join([*lines, ""]))
    return folder


def test_the_questions_of_a_folder_take_the_place_of_the_published_ones(
    tmp_path: Path, stimuli: Stimuli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OWN, raising=False)
    assert with_own_questions(PUBLISHED) is PUBLISHED
    published = PROFILES["qwen2.5-7b"](stimuli).study("cot_leakage")
    monkeypatch.setenv(OWN, str(own(tmp_path / "mine")))
    study = PROFILES["qwen2.5-7b"](stimuli).study("cot_leakage")
    scale = with_own_questions(PUBLISHED)
    assert (scale.trained, scale.asked, scale.repeated, scale.smoke.questions) == (5, 3, 3, 3)
    assert any("not the published ones" in caveat for caveat in study.plan.caveats)
    assert not any("not the published ones" in caveat for caveat in published.plan.caveats)
    assert study.plan.experiment != published.plan.experiment
    found = scale.source.read(stimuli)
    assert [q.name for q in found.train] == [f"train_{place}" for place in range(5)]
    assert [q.name for q in found.evaluation] == [f"test_{place}" for place in range(3)]
    assert scale.source.at_hand()


def test_a_folder_is_known_by_what_is_in_it(tmp_path: Path, stimuli: Stimuli, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for place, count in (("here", 5), ("there", 5), ("elsewhere", 6)):
        monkeypatch.setenv(OWN, str(own(tmp_path / place, count)))
        texts.append(with_own_questions(PUBLISHED).source.texts(stimuli))
    assert texts[0] == texts[1] != texts[2]


def test_a_folder_that_changed_is_not_read(tmp_path: Path, stimuli: Stimuli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN, str(own(tmp_path)))
    source = with_own_questions(PUBLISHED).source
    own(tmp_path, test=4)
    with pytest.raises(QuestionsUnavailable, match="changed since this process began"):
        source.read(stimuli)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "test.jsonl cannot be read"),
        ("{", "test.jsonl, line 1: no JSON"),
        ("\n[1]", "test.jsonl, line 2: no JSON object"),
        (json.dumps({"id": "a"}), "row 0: no field 'choices'"),
        (json.dumps(row("a", "ABC")), "1 of 1 questions cannot be asked"),
        ("\n".join([json.dumps(row("a"))] * 2), "question a: occurs twice"),
        (json.dumps(row("train_0")), "train_0"),
    ],
    ids=["missing", "no JSON", "no object", "no field", "three options", "twice", "in both"],
)
def test_what_is_wrong_with_a_folder_is_said(
    content: str | None, said: str, tmp_path: Path, stimuli: Stimuli, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path)
    if content is None:
        (tmp_path / "test.jsonl").unlink()
    else:
        (tmp_path / "test.jsonl").write_text(content)
    monkeypatch.setenv(OWN, str(tmp_path))
    with pytest.raises((QuestionsUnavailable, ChoiceError), match=said):
        with_own_questions(PUBLISHED).source.read(stimuli)
