"""Samples and scores: only what is missing is generated, and scores are a query over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.engine import Sampler
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_id
from leakage_assets.generation.run import GenerationSummary, generate_missing
from leakage_assets.pipeline.accounting import achieved, sampling_work, spent
from leakage_assets.pipeline.laboratory import Laboratory, Outcome, library_versions
from leakage_assets.planning.efficiency import sampling_kind
from leakage_assets.progress import Progress
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import Artifact, ArtifactError
from leakage_assets.store.fingerprint import fingerprint
from leakage_assets.store.samples import SampleStore
from leakage_assets.studies.study import Panel

INDEX = "index.parquet"
READINGS = "readings.parquet"
VERSION = 1
"""Raise it when the code that asks and decodes changes what is said."""

READINGS_VERSION = 2
"""Raise it when the code that reads finished samples with the engine's help changes what it tells of them."""


T = TypeVar("T")


def panel_requests(stimuli: Stimuli, panel: Panel, adapter: str) -> list[Request]:
    """Every completion a panel asks of one adapter, in panel order."""
    prompts = [(name, stimuli.prompt(name)) for name in panel.prompts]
    return [
        Request(adapter, name, system, set_name, question.name, question.text, index)
        for name, system in prompts
        for set_name, count in panel.questions
        for question in stimuli.question_sets[set_name].questions[:count]
        for index in range(panel.completions)
    ]


class SampleJob:
    """The samples one adapter owes: its requests, the store they go to, and the artifact that says they are complete.

    The shards live beside the artifact, under a folder named after what was sampled (adapter digest or base
    fingerprint), not after the panel: a larger panel finds the samples of the smaller one.

    ``model_digest`` is None where ``writer`` answers in place of the engine: then neither engine nor libraries have any
    say, and the requests name the writer; ``written_from`` is what decides its texts besides. ``read`` has the engine
    tell more of the finished samples (``Chained``).
    """

    def __init__(
        self,
        lab: Laboratory,
        address: tuple[str, ...],
        model_digest: str | None,
        requests: Sequence[Request],
        sampling: Sampling,
        adapter_folder: Path | None = None,
        *,
        writer: Callable[[], Sampler] | None = None,
        written_from: Mapping[str, Any] | None = None,
        read: Callable[[pl.DataFrame, Mapping[str, Path]], pl.DataFrame | None] | None = None,
    ) -> None:
        self.lab, self.address, self.requests, self.sampling = lab, address, requests, sampling
        self.adapter_folder, self.writer, self.read = adapter_folder, writer, read
        self.name = requests[0].adapter
        asked_of: dict[str, Any] = {"version": VERSION, "writer": self.name, **(written_from or {})}
        if writer is None:
            asked_of = {
                "version": VERSION,
                "model": model_digest,
                "engine": lab.engine_identity,
                "libraries": library_versions(),
            }
        self.identity: dict[str, Any] = {
            "stage": "samples",
            **asked_of,
            "requests": fingerprint([sample_id(r, sampling) for r in requests]),
            # The samples are what they were: their store is not named after this.
            **({} if read is None else {"readings": READINGS_VERSION}),
        }
        digest = fingerprint(asked_of)
        self.store = SampleStore(lab.store.root.joinpath(*address, "shards", digest[:16]))

    def finished(self) -> Artifact | None:
        """The finished artifact whatever its refresh token; None if it, or a sample it lists, is missing."""
        artifact = self.lab.find(self.address, self.identity)
        return artifact if artifact is not None and _pins(artifact, self.frame()) else None

    def current(self) -> Outcome | None:
        """What is finished, unless it is missing, to be refreshed, or its samples are no longer in the store."""
        artifact = self.lab.current(self.address, self.identity)
        if artifact is None or not _pins(artifact, frame := self.frame()):
            return None
        return self._outcome(artifact, frame, reused=True)

    def require(self, *, remedy: str) -> tuple[Artifact, pl.DataFrame]:
        """The finished artifact and its samples. Raises ``ArtifactMissing``, or ``SamplesMissing`` naming the store."""
        artifact = self.lab.require(self.address, self.identity, remedy=remedy)
        frame = self.frame()
        if not _pins(artifact, frame):
            raise SamplesMissing(f"{self.store.folder}: not the samples that {artifact.folder} lists; {remedy}")
        return artifact, frame

    def begin(self) -> None:
        """Under a refresh token that has not been here yet, put the old shards aside."""
        token = self.lab.refresh
        mark = self.store.folder / "refresh-token"
        if token is None or (mark.exists() and mark.read_text() == token):
            return
        self.store.archive()
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(token)

    def frame(self) -> pl.DataFrame:
        """Exactly the samples asked for, sorted by prompt, question set, question and index."""
        wanted = pl.DataFrame({"sample_id": [sample_id(r, self.sampling) for r in self.requests]})
        return self.store.frame().join(wanted, on="sample_id", how="semi", maintain_order="left")

    @property
    def adapters(self) -> dict[str, Path]:
        """The adapter's folder by its name; empty for the base and for other writers."""
        return {} if self.adapter_folder is None else {self.name: self.adapter_folder}

    def with_readings(self, artifact: Artifact, frame: pl.DataFrame) -> pl.DataFrame:
        """The samples of the finished artifact with what the engine told of them, if anything."""
        path = artifact.folder / READINGS
        if not path.exists():
            return frame
        return frame.join(pl.read_parquet(path), on="sample_id", how="left", maintain_order="left", validate="1:1")

    def finish(self, made: Mapping[str, Any] | None = None) -> Outcome:
        """Write the artifact that pins the texts; raises if a sample is still missing.

        ``made`` is the provenance of the stream that generated the last of them.
        """
        frame = self.frame()
        if frame.height != len(self.requests):
            raise SamplesMissing(
                f"{self.name}: {frame.height} of {len(self.requests)} samples are in {self.store.folder}; run again"
            )
        provenance = {"shards": str(self.store.folder.relative_to(self.lab.store.root)), **(made or {})}
        with self.lab.store.draft(
            self.address, self.identity, provenance=provenance, refresh=self.lab.refresh
        ) as draft:
            _index(frame).write_parquet(draft.folder / INDEX)
            draft.rows(INDEX, frame.height)
            readings = None if self.read is None else self.read(frame, self.adapters)
            if readings is not None:
                readings.write_parquet(draft.folder / READINGS)
                draft.rows(READINGS, readings.height)
        return self._outcome(draft.artifact, frame, reused=False)

    @staticmethod
    def _outcome(artifact: Artifact, frame: pl.DataFrame, *, reused: bool) -> Outcome:
        return Outcome(artifact, reused, {**sample_metrics(frame), **achieved(artifact)}, timed=False)


def _index(frame: pl.DataFrame) -> pl.DataFrame:
    """sample_id and text_sha256 of every sample: what an artifact pins."""
    digests = [sha256(text.encode()).hexdigest() for text in frame["text"]]
    return frame.select("sample_id").with_columns(pl.Series("text_sha256", digests, pl.String))


def _pins(artifact: Artifact, frame: pl.DataFrame) -> bool:
    """Whether these samples are the ones of the artifact: a shard may have been deleted, or archived, since."""
    return _index(frame).equals(pl.read_parquet(artifact.folder / INDEX))


class SamplesMissing(ArtifactError):
    """The store lacks samples of a finished artifact, or generation ended without delivering every sample."""


def sample_metrics(frame: pl.DataFrame) -> dict[str, int | float]:
    """Numbers worth plotting over partitions."""
    return {
        "samples": frame.height,
        "mean_tokens": float(frame["n_tokens"].mean()),  # type: ignore[arg-type]
        "truncated_share": float((frame["finish_reason"] == "length").mean()),  # type: ignore[arg-type]
    }


def run_sample_jobs(lab: Laboratory, jobs: Mapping[T, SampleJob]) -> dict[T, Outcome | PartitionError]:
    """Generate what the jobs miss, all adapters in one stream.

    A job whose store or artifact is damaged gets its error and does not stop the others.
    """
    results: dict[T, Outcome | PartitionError] = {}
    todo: dict[T, SampleJob] = {}
    for key, job in jobs.items():
        try:
            if (outcome := job.current()) is None:
                job.begin()
                job.frame()  # a damaged store is found before anything is generated for it
                todo[key] = job
            else:
                results[key] = outcome
        except PartitionError as error:
            results[key] = error
    made: dict[int, dict[str, Any]] = {}
    for stream in _streams(list(todo.values())):
        writer = stream[0].writer
        summary = generate_missing(
            lab.engine() if writer is None else writer(),
            [request for job in stream for request in job.requests],
            stream[0].sampling,
            adapters={name: folder for job in stream for name, folder in job.adapters.items()},
            stores={job.name: job.store for job in stream},
            progress=lambda total: Progress(total, "samples", lab.emit),
        )
        made |= {id(job): _spent(lab, stream, summary) for job in stream}
    for key, job in todo.items():
        try:
            results[key] = job.finish(made[id(job)])
        except PartitionError as error:
            results[key] = error
    return {key: results[key] for key in jobs}


def _spent(lab: Laboratory, stream: Sequence[SampleJob], summary: GenerationSummary) -> dict[str, Any]:
    """Provenance of a stream, the same for every job in it; empty where all samples were there already."""
    if not summary.generated or stream[0].writer is not None:
        return {}
    requests = [request for job in stream for request in job.requests]
    work = sampling_work(lab, requests, summary.generated, summary.tokens)
    return spent(sampling_kind(len({job.name for job in stream} - {BASE})), work, summary.seconds)


def _streams(jobs: Sequence[SampleJob]) -> list[list[SampleJob]]:
    """One call of the engine serves jobs of one sampling, each adapter name once: the name says which store."""
    streams: list[list[SampleJob]] = []
    for job in jobs:
        for stream in streams:
            alike = stream[0].sampling == job.sampling and stream[0].writer is job.writer is None
            if alike and job.name not in {other.name for other in stream}:
                stream.append(job)
                break
        else:
            streams.append([job])
    return streams
