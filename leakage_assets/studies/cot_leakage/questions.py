"""The questions: ARC-Challenge at a pinned revision, a folder of one's own, or the tiny world's multiple choice."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakage_assets.exceptions import ExpectedError
from leakage_assets.measurement.multiple_choice import (
    LETTERS,
    ChoiceError,
    LabelReport,
    MultipleChoice,
    check_disjoint,
    label_report,
)
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.files import sha256_file
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.world.choices import Wordings, draw_choice_question


class QuestionsUnavailable(ExpectedError):
    """The data set is neither cached nor can it be downloaded, or is not what it should be."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the hub at one commit, and its splits for training and evaluation."""

    repository: str
    name: str
    revision: str
    train: str = "train"
    evaluation: str = "test"


ARC_CHALLENGE = DataSet("allenai/ai2_arc", "ARC-Challenge", "210d026faf9955653af8916fad021475a3f00453")
"""1,119 questions to train on and 1,172 to evaluate, before those without exactly four options are left out."""


OWN = "LEAKAGE_QUESTIONS"
TRAIN, EVALUATION = "train.jsonl", "test.jsonl"


@dataclass(frozen=True)
class Folder:
    """``train.jsonl`` and ``test.jsonl``: a JSON object a line, with the fields of ARC-Challenge; known by digest."""

    path: str
    train_sha256: str
    evaluation_sha256: str

    @classmethod
    def at(cls, path: Path) -> Folder:
        """Raises ``QuestionsUnavailable`` where one of the files cannot be read."""
        try:
            return cls(str(path.resolve()), sha256_file(path / TRAIN), sha256_file(path / EVALUATION))
        except OSError as error:
            raise QuestionsUnavailable(
                f"{OWN}={path}: {error.filename} cannot be read ({error.strerror}); name a folder with {TRAIN} and "
                f"{EVALUATION}, or unset it for {ARC_CHALLENGE.name}"
            ) from error

    def rows(self, name: str) -> list[Mapping[str, Any]]:
        """The rows of a file. Raises ``QuestionsUnavailable`` naming the line that is no JSON object."""
        path = Path(self.path) / name
        rows: list[Mapping[str, Any]] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise QuestionsUnavailable(f"{path}, line {number}: no JSON ({error})") from error
            if not isinstance(row, dict):
                raise QuestionsUnavailable(
                    f"{path}, line {number}: no JSON object with id, question, choices, answerKey"
                )
            rows.append(row)
        return rows


def own_folder() -> Folder | None:
    """The folder that the environment names, if any; raises as ``Folder.at``."""
    named = os.environ.get(OWN)
    return Folder.at(Path(named).expanduser()) if named else None


@dataclass(frozen=True)
class Questions:
    """What is trained on and what is asked, with a report on the labels of each.

    Raises ``ChoiceError`` where a question is in both, or a name occurs twice.
    """

    train: tuple[MultipleChoice, ...]
    evaluation: tuple[MultipleChoice, ...]
    reports: tuple[LabelReport, LabelReport]

    def __post_init__(self) -> None:
        for split in (self.train, self.evaluation):
            names = [q.name for q in split]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ChoiceError(f"question {twice[0]}: occurs twice in one split")
        check_disjoint(self.train, self.evaluation)


@dataclass(frozen=True)
class QuestionSource:
    """Where the questions are from: a data set of the hub, a folder, or (None) the tiny world, which gives so many of
    each split.

    ``relabel``: as ``read_hub_questions``. ``most_dropped``: the share of a split that may be left out for having
    another number of options than four, or being malformed; beyond it the data set is not the one that was planned for.
    """

    data_set: DataSet | Folder | None
    train: int
    evaluation: int
    relabel: bool = False
    most_dropped: float = 0.02

    def read(self, stimuli: Stimuli) -> Questions:
        """The questions, once per process and stimuli.

        Raises ``QuestionsUnavailable``, also where too many had to be left out, and ``ChoiceError``.
        """
        # Stimuli are not hashable; they are few, and kept with what was made of them.
        for known, source, found in _READ:
            if known is stimuli and source == self:
                return found
        if self.data_set is None:
            found = tiny_questions(stimuli, train=self.train, evaluation=self.evaluation)
        elif isinstance(self.data_set, Folder):
            found = read_own_questions(self.data_set, relabel=self.relabel)
        else:
            found = read_hub_questions(self.data_set, relabel=self.relabel)
        for report in found.reports:
            _check_dropped(report, self.most_dropped)
        _READ.append((stimuli, self, found))
        return found

    def at_hand(self) -> bool:
        """Whether they can be read without the network: those of the hub only where they are cached."""
        return not isinstance(self.data_set, DataSet) or _cached(self.data_set)

    def texts(self, stimuli: Stimuli) -> object:
        """What the plan knows of them: the tiny world's texts, a folder's digests, or the data set at its revision."""
        if isinstance(self.data_set, Folder):
            return [self.data_set.train_sha256, self.data_set.evaluation_sha256]
        return self.data_set if self.data_set is not None else self.read(stimuli)


def _check_dropped(report: LabelReport, most: float) -> None:
    left_out = sum(report.dropped.values())
    total = report.kept + left_out
    if left_out > most * total:
        counts = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        raise QuestionsUnavailable(
            f"split {report.split}: {left_out} of {total} questions cannot be asked ({counts}), more than {most:.0%}; "
            "this is not the data set that was planned for: check its revision"
        )


_READ: list[tuple[Stimuli, QuestionSource, Questions]] = []


def read_hub_questions(source: DataSet, *, relabel: bool = False) -> Questions:
    """Both splits of a data set of ARC's format, in its order.

    Questions without exactly four options are left out and counted. ``relabel`` turns the labels 1 to 4 into letters;
    without it they stay as published, and no letter is ever right for them.

    Raises ``QuestionsUnavailable`` offline and without a cached copy, ``ChoiceError`` as ``Questions``.
    """
    train = read_rows(source.train, _rows(source, source.train), relabel=relabel)
    evaluation = read_rows(source.evaluation, _rows(source, source.evaluation), relabel=relabel)
    return Questions(train[0], evaluation[0], (train[1], evaluation[1]))


def read_own_questions(source: Folder, *, relabel: bool = False) -> Questions:
    """Both files of a folder, in their order, read as the hub's.

    Raises ``QuestionsUnavailable`` also where a file has changed since the folder was named, ``ChoiceError`` as
    ``Questions``.
    """
    if Folder.at(Path(source.path)) != source:
        raise QuestionsUnavailable(f"{source.path}: changed since this process began; start again")
    train = read_rows(TRAIN, source.rows(TRAIN), relabel=relabel)
    evaluation = read_rows(EVALUATION, source.rows(EVALUATION), relabel=relabel)
    return Questions(train[0], evaluation[0], (train[1], evaluation[1]))


def read_rows(
    split: str, rows: Iterable[Mapping[str, Any]], *, relabel: bool = False
) -> tuple[tuple[MultipleChoice, ...], LabelReport]:
    """Questions from rows with id, question, choices (text, label) and answerKey, and the report on their labels.

    A row with another number of options, or whose answer is none of its labels, is left out and counted by that
    reason. Raises ``QuestionsUnavailable`` for a row that lacks a field: then it is another data set.
    """
    kept, reasons = [], []
    for place, row in enumerate(rows):
        try:
            labels, options = tuple(row["choices"]["label"]), tuple(row["choices"]["text"])
            name, stem, answer = str(row["id"]), str(row["question"]), str(row["answerKey"])
        except (KeyError, TypeError) as error:
            raise QuestionsUnavailable(
                f"split {split}, row {place}: no field {error}; expected id, question, choices and answerKey"
            ) from error
        try:
            question = MultipleChoice(name, stem, labels, options, answer)
        except ChoiceError:
            reasons.append(f"{len(options)} options" if len(options) != len(LETTERS) else "malformed")
            continue
        kept.append(question.relabelled() if relabel else question)
    return tuple(kept), label_report(split, kept, reasons)


def _rows(source: DataSet, split: str) -> Sequence[Mapping[str, Any]]:
    from datasets import load_dataset

    what = f"{source.repository} ({source.name}, {split}) at {source.revision}"
    try:
        found: Sequence[Mapping[str, Any]] = load_dataset(
            source.repository, source.name, split=split, revision=source.revision
        )
    except (
        OSError,
        ValueError,
    ) as error:  # connection and missing-file errors are OSErrors, unknown splits ValueErrors
        raise QuestionsUnavailable(
            f"{what} is neither cached nor could it be downloaded ({type(error).__name__}: {error}); allow the "
            "network, unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, or copy the data set into the cache"
        ) from error
    return found


def _cached(source: DataSet) -> bool:
    """Whether both splits were prepared on this machine before; nothing is fetched to find out."""
    from importlib.util import find_spec

    if find_spec("datasets") is None:
        return False
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE) / source.repository.replace("/", "___")
    return any(folder.glob(f"{source.name}/*/{source.revision}/*.arrow"))


def tiny_questions(stimuli: Stimuli, *, train: int, evaluation: int) -> Questions:
    """Multiple choice of the tiny world whose sets of options never occurred in pre-training.

    Questions to train on are asked in the wordings of pre-training, those of the evaluation in held-out ones; no set of
    options occurs twice. Raises ``ChoiceError`` where the world has not that many.
    """
    seen: set[tuple[str, ...]] = set()
    first = _drawn(stimuli, "train", "train", train, seen)
    second = _drawn(stimuli, "evaluation", "held_out", evaluation, seen)
    return Questions(first, second, (label_report("train", first), label_report("evaluation", second)))


ATTEMPTS = 100
"""Draws per question wanted before the world counts as exhausted."""


def _drawn(
    stimuli: Stimuli, split: str, wordings: Wordings, count: int, seen: set[tuple[str, ...]]
) -> tuple[MultipleChoice, ...]:
    rng = random.Random(derive_seed("cot-questions", split))
    drawn: list[MultipleChoice] = []
    for _ in range(ATTEMPTS * count):
        if len(drawn) == count:
            break
        question = draw_choice_question(stimuli, rng, wordings=wordings, held_out_options=True)
        key = tuple(sorted(question.options))
        if key not in seen:
            seen.add(key)
            name = f"{split}_{len(drawn)}"
            drawn.append(
                MultipleChoice(name, question.stem, LETTERS, question.options, question.letter, question.topic)
            )
    if len(drawn) < count:
        raise ChoiceError(f"split {split}: {count} questions wanted, the tiny world gave {len(drawn)}")
    return tuple(drawn)
