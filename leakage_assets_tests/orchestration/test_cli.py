"""The command line: help for every command, and errors that say what to do instead of a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from leakage_assets.cli import main
from leakage_assets.materialise import StudyRuns
from leakage_assets.pipeline.conclusions import analysis_tables, finished_scores
from leakage_assets.pipeline.publication import draw_figures, write_report
from leakage_assets.planning.ledger import Ledger, read_bounds
from leakage_assets.planning.ledger_table import BEGIN, END
from leakage_assets.profiles import load_profile
from leakage_assets.studies.registry import statistic_labels
from leakage_assets.studies.study import Cell
from leakage_assets_tests.finished_study import finish, unfinished_laboratory

COMMANDS = ("demo", "run", "show", "reproduce", "lint", "plan", "bench", "pretrain")


def leakage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["leakage", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    said = capsys.readouterr()
    return int(exit_.value.code or 0), said.out, said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = leakage(monkeypatch, capsys, command, "--help")
    assert code == 0 and f"leakage {command}" in out


def test_help_lists_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = leakage(monkeypatch, capsys, "--help")
    assert code == 0 and all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("run", "nosuch"), "no study 'nosuch'; studies: marker_leakage"),
        (("run", "marker_leakage", "--profile", "nosuch"), "no profile 'nosuch'; profiles: tiny, qwen2.5-7b"),
        (("run", "marker_leakage", "--source", "nosuch"), "no source 'nosuch'; sources: villain, comedian"),
        (("run", "marker_leakage", "--recipe", "nosuch"), "no recipe 'nosuch'; recipes: marker_only"),
        (("run", "marker_leakage", "--seed", "7"), "no seed 7; seeds: 42, 137, 256"),
        (("plan", "nosuch"), "no study 'nosuch'; studies: marker_leakage"),
        (("plan", "marker_leakage", "--source", "nosuch"), "no source 'nosuch'; sources: villain, comedian"),
        (("plan", "marker_leakage", "--hardware", "b200"), "no hardware 'b200'; hardware: h200, h100, a100, cpu"),
        (("show", "nosuch"), "no study 'nosuch'; studies: marker_leakage"),
        (("reproduce", "nosuch", "--published", "."), "'nosuch'; studies: marker_leakage"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(
    words: tuple[str, ...], remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = leakage(monkeypatch, capsys, *words)
    assert code == 1 and remedy in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("command", ["run", "show", "plan"])
def test_artifacts_in_a_file_are_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = leakage(monkeypatch, capsys, command, "marker_leakage", "--artifacts", __file__)
    assert code == 2 and "'--artifacts'" in err and "Traceback" not in out + err


def test_nothing_to_show_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = leakage(monkeypatch, capsys, "show", "marker_leakage", "--artifacts", str(tmp_path))
    assert code == 1 and "no finished artifact; materialise analysis" in err


def test_show_tells_coverage_and_confidence_and_names_statistics_as_the_report_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = unfinished_laboratory(tmp_path)
    analysis, study = finish(lab), lab.profile.studies[0]
    monkeypatch.setattr("leakage_assets.profiles.load_profile", lambda _: lab.profile)
    words = ("show", study.name, "--artifacts", str(tmp_path))
    code, out, err = leakage(monkeypatch, capsys, *words)
    assert code == 0, err
    headline = analysis_tables(analysis)["headline"]
    defined = headline.drop_nulls("estimate")
    labels = statistic_labels(study.name)
    table, rest = out.split("└", 1)
    assert all(labels[name][0] in table for name in defined["statistic"])
    assert "bystander_to_source_ratio" not in out
    for name, reason in headline.filter(pl.col("estimate").is_null()).select("statistic", "undefined").iter_rows():
        assert labels[name][0] in next(line for line in rest.splitlines() if f"not defined ({reason}): " in line)
    finished = len(finished_scores(lab, study, study.main).artifacts)
    assert f"{finished} of {len(study.cells)} cells finished; confidence: not rated" in out
    draw_figures(lab, study)
    level = write_report(lab, study).metrics["confidence"]
    assert f"cells finished; confidence: {level}\n" in leakage(monkeypatch, capsys, *words)[1]
    (page,) = tmp_path.glob("tiny/*/report.md")
    hint = f"artifacts are looked for in {tmp_path / 'other'}: name another folder with --artifacts"
    assert hint in leakage(monkeypatch, capsys, "lint", str(page), "--artifacts", str(tmp_path / "other"))[1]
    assert leakage(monkeypatch, capsys, "lint", str(page), "--artifacts", str(tmp_path))[1] == "0 findings\n"


def test_one_is_said_in_the_singular(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.md"
    for text, said in (("7 ate", "1 finding"), ("7 ate 9", "2 findings"), ("none", "0 findings")):
        page.write_text(f"{text}\n\n```bindings\n```\n")
        assert leakage(monkeypatch, capsys, "lint", str(page))[1].splitlines()[-1] == said
    profile = load_profile("tiny")
    study = profile.study("marker_leakage")
    monkeypatch.setattr(StudyRuns, "_run", lambda *_: None)
    with dg.DagsterInstance.ephemeral() as instance:
        runs = StudyRuns(profile, study, instance=instance, artifacts=tmp_path)
        (one,), (two,) = (list(runs.cells([Cell(c, 42) for c in study.conditions[:count]], False)) for count in (1, 2))
    first, second = (condition.key for condition in study.conditions[:2])
    assert one == f"seed 42: {first} (1 cell)"
    assert two == f"seed 42: {first} to {second} (2 cells)"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.md", b"no number here"),
        ("page.html", b"<p>9</p>"),
        ("report.md", b"## Bindings\n"),
        ("picture.md", b"\xff"),
    ],
)
def test_a_file_that_is_no_report_is_not_found_free_of_mistakes(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / name
    page.write_bytes(content)
    code, out, err = leakage(monkeypatch, capsys, "lint", str(page))
    assert code == 1 and "findings" not in out
    assert f"{page} is no whole report" in err and "`leakage show STUDY` prints where it is" in err


def test_what_was_never_run_says_which_command_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("show", "trigger_leakage", "--artifacts", str(tmp_path))
    code, _, err = leakage(monkeypatch, capsys, *words)
    assert code == 1 and "nothing to show yet: run `leakage run trigger_leakage` first" in err
    _, _, err = leakage(monkeypatch, capsys, *words, "--profile", "qwen2.5-7b")
    assert "run `leakage run trigger_leakage --profile qwen2.5-7b` first" in err


def test_a_run_that_was_stopped_says_that_finished_work_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> Iterator[str]:
        yield "training sets"
        raise KeyboardInterrupt

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("leakage_assets.materialise.StudyRuns.all_stages", stopped)
    code, out, err = leakage(monkeypatch, capsys, "run", "marker_leakage", "--artifacts", str(tmp_path / "artifacts"))
    assert code == 130 and "training sets" in out
    assert "stopped; finished work is kept: run the same command again to go on" in err


def test_a_plan_without_any_measurement_forecasts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", "trigger_leakage", "--source", "T_task", "--recipe", "strong", "--artifacts", str(tmp_path))
    monkeypatch.setattr("leakage_assets.planning.ledger.read_ledger", lambda: Ledger(()))
    code, out, _ = leakage(monkeypatch, capsys, *words)
    assert code == 0 and ", no forecast; no measurement for " in out
    assert "0.0 s" not in out.splitlines()[-1] and "forecast of what was measured" not in out


def test_a_plan_as_table_and_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ("plan", "marker_leakage", "--source", "villain", "--recipe", "no_marker", "--seed", "42")
    words = (*one, "--hardware", "h200", "--artifacts", str(tmp_path))
    code, out, _ = leakage(monkeypatch, capsys, *words)
    assert code == 0
    for said in (
        "NVIDIA H200",
        "on_policy_completions",
        "0 of 1 adapters",
        "0 of 2,220",
        "least possible",
        "datasheet",
    ):
        assert said in out, said
    code, out, _ = leakage(monkeypatch, capsys, *words, "--json")
    planned = json.loads(out)
    assert code == 0
    assert planned["cells"] == {"planned": 1, "done": 0}
    assert [stage["planned"] for stage in planned["stages"]] == [1_760, 1, 1, 2_220, 2_220]
    assert not list(tmp_path.iterdir())


def test_the_ledger_is_printed_and_written_between_the_markers_of_a_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = leakage(monkeypatch, capsys, "bench")
    assert code == 0
    assert all(bound.name in out for bound in read_bounds())
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    code, out, _ = leakage(monkeypatch, capsys, "bench", "--check", "--readme", str(readme))
    assert code == 1 and "run leakage bench --write-readme" in " ".join(out.split())
    assert leakage(monkeypatch, capsys, "bench", "--write-readme", "--readme", str(readme))[0] == 0
    assert "| `centroids_s` |" in readme.read_text()
    assert leakage(monkeypatch, capsys, "bench", "--check", "--readme", str(readme))[0] == 0
    readme.write_text(readme.read_text().replace("centroids_s", "other"))
    assert leakage(monkeypatch, capsys, "bench", "--check", "--readme", str(readme))[0] == 1


def test_brackets_of_an_error_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = leakage(monkeypatch, capsys, "run", "[/red]")
    assert code == 1 and "no study '[/red]'" in err


@pytest.mark.parametrize("words", [("lint", "nosuch.html"), ("reproduce", "marker_leakage", "--published", "nosuch")])
def test_missing_files_are_named(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = leakage(monkeypatch, capsys, *words)
    assert code != 0 and "nosuch" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("verdict", "expected", "summary"),
    [
        ("ok", 0, "2 reproduced, 0 known errors of the write-up, 0 not reproduced"),
        ("known: A4", 0, "1 reproduced, 1 known errors of the write-up, 0 not reproduced"),
        ("DIFFERS", 1, "1 reproduced, 0 known errors of the write-up, 1 not reproduced"),
        ("undefined", 1, "1 reproduced, 0 known errors of the write-up, 1 not reproduced"),
    ],
)
def test_only_what_came_out_is_reproduced(
    verdict: str, expected: int, summary: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = {"published": 0.5, "recomputed": 0.5, "difference": 0.0, "tolerance": 0.1}
    rows = [{"block": "b", "item": f"item of {v}", "metric": "m", **numbers, "verdict": v} for v in ("ok", verdict)]
    monkeypatch.setattr("leakage_assets.studies.registry.reproduction", lambda _: lambda _: pl.DataFrame(rows))
    code, out, _ = leakage(monkeypatch, capsys, "reproduce", "marker_leakage", "--published", ".")
    assert code == expected and summary in out
    assert "item of ok" in out and f"item of {verdict}" in out
