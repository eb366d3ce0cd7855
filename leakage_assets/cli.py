"""`leakage`: the laboratory from the command line. Thin: every command calls what the assets call."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leakage_assets.exceptions import ExpectedError
from leakage_assets.paths import ARTIFACTS, README
from leakage_assets.world import BUNDLED_SEED

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.planning.forecast import Plan
    from leakage_assets.studies.study import Study

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
# Without a terminal (a log, a pipe) rich would assume 80 columns and cut the tables.
console = Console(width=None if sys.stdout.isatty() else 140)

ProfileName = Annotated[str, typer.Option(help="tiny (bundled model, CPU) or qwen2.5-7b")]
StudyName = Annotated[str, typer.Argument(help="name of a study")]
Sources = Annotated[list[str] | None, typer.Option(help="source (repeatable); all by default")]
Recipes = Annotated[list[str] | None, typer.Option(help="recipe (repeatable); all by default")]
Seeds = Annotated[list[int] | None, typer.Option(help="seed (repeatable); all by default")]
Extras = Annotated[bool, typer.Option(help="also tuned geometry and the panels besides the main one")]
ArtifactRoot = Annotated[Path, typer.Option(file_okay=False, help="where artifacts are kept")]

DEMO_SOURCES = 3
INTERRUPTED = 130
"""Exit code of what Ctrl-C stopped, as shells have it: 128 and the number of SIGINT."""
KNOWN_ERROR = "known: "
"""How the verdict on a figure begins that the study's protocol itself refutes; the ambiguity's number follows."""

RECOMPUTED = ("published against recomputed", "reproduced", "not reproduced")
CHECKED = ("checked for consistency; nothing to recompute from", "consistent", "inconsistent")
"""How ``leakage reproduce`` heads its table and counts what came out and what did not."""


@app.command()
def demo(artifacts: ArtifactRoot = ARTIFACTS) -> None:
    """Materialise three sources of marker leakage on the bundled model through Dagster, and print what leaked."""
    from leakage_assets.profiles import load_profile

    study = load_profile("tiny").study("marker_leakage")
    sources = list(study.sources[:DEMO_SOURCES])
    run("marker_leakage", "tiny", sources, [study.plan.headline_recipe], [study.seeds[0]], False, None, artifacts)


@app.command()
def run(
    study: StudyName,
    profile: ProfileName = "tiny",
    source: Sources = None,
    recipe: Recipes = None,
    seed: Seeds = None,
    extras: Extras = False,
    refresh: Annotated[str | None, typer.Option(help="token: redo what was not made under it")] = None,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Materialise cells of a study through Dagster, then its conclusions; finished work is never redone.

    Stopped by Ctrl-C or SIGTERM it exits with 130 and keeps what was finished.
    """
    with _told_when_stopped():
        from leakage_assets.materialise import StudyRuns, dagster_instance
        from leakage_assets.profiles import load_profile
        from leakage_assets.store.files import check_writable

        chosen = load_profile(profile)
        spec = chosen.study(study)
        cells = spec.chosen_cells(source, recipe, seed)
        check_writable(artifacts)
        with dagster_instance() as instance:
            runs = StudyRuns(chosen, spec, instance=instance, refresh=refresh, artifacts=artifacts)
            for stage in runs.all_stages(cells, extras):
                console.print(f"[green]✓[/] {stage}")
    show(study, profile, artifacts)


@app.command()
def show(
    study: StudyName,
    profile: ProfileName = "tiny",
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Print headline, verdicts, coverage and confidence of the newest analysis, and the path of the report."""
    from leakage_assets.pipeline.conclusions import analysis_tables, finished_scores, require_analysis
    from leakage_assets.pipeline.laboratory import Laboratory
    from leakage_assets.pipeline.publication import stable_report, stored_confidence
    from leakage_assets.profiles import load_profile
    from leakage_assets.store.artifacts import ArtifactMissing, ArtifactStore

    lab = Laboratory(load_profile(profile), ArtifactStore(artifacts))
    spec = lab.profile.study(study)
    try:
        analysis = require_analysis(lab, spec)
    except ArtifactMissing as error:
        where = "" if profile == "tiny" else f" --profile {profile}"
        remedy = f"run `leakage run {study}{where}` first"
        if lab.store.history(lab.address(spec, "analysis")):
            raise ArtifactMissing(f"what was analysed of {study} is out of date: {remedy} ({error})") from error
        raise ArtifactMissing(f"{study}: nothing to show yet: {remedy} ({error})") from error
    tables = analysis_tables(analysis)
    _print_headline(spec, tables["headline"])
    console.print(_table("Against the frozen plan", tables["verdicts"], ("hypothesis", "claim", "verdict")))
    finished = len(finished_scores(lab, spec, spec.main).artifacts)
    level = stored_confidence(lab, spec, analysis) or "not rated: no report of this analysis yet"
    console.print(f"{finished} of {len(spec.cells)} cells finished; confidence: {level}", soft_wrap=True)
    console.print(f"report: {stable_report(lab, spec)}", soft_wrap=True)


@app.command()
def reproduce(
    study: StudyName,
    published: Annotated[Path, typer.Option(help="folder with the published tables")],
) -> None:
    """Recompute every published statistic from the published tables; exit 1 if one does not come out.

    Of trigger_leakage no results were published that a statistic could be recomputed from: its figures are checked for
    consistency with each other, with the design and with a second transcription.

    A figure that the published data contradict, as the study's protocol says, is a known error: named, not counted
    as wrong. One that the data no longer define is wrong.
    """
    from leakage_assets.studies.registry import known_errors, reproduction

    table = reproduction(study)(published)
    right, known = table["verdict"] == "ok", table["verdict"].str.starts_with(KNOWN_ERROR)
    errors, wrong = table.filter(known), table.filter(~right & ~known)
    columns = ("block", "item", "metric", "published", "recomputed", "difference", "tolerance", "verdict")
    transcribed = "basis" in table.columns and "transcribed" in table["basis"]
    title, passed, failed = CHECKED if transcribed else RECOMPUTED
    console.print(_table(f"{study}: {title}", table, (*columns, *(["basis"] if transcribed else []))))
    if errors.height:
        console.print(_table("Known errors of the write-up", errors, columns))
        console.print("The codes number entries of the study's protocol sheet, where text, code and data disagree:")
        reasons = known_errors(study)
        for code in errors["verdict"].str.strip_prefix(KNOWN_ERROR).unique(maintain_order=True):
            console.print(f"{code}: {reasons[code]}", soft_wrap=True, markup=False)
    if wrong.height:
        console.print(_table(failed.capitalize(), wrong, columns))
    if transcribed:
        basis = Counter(table.filter(right)["basis"])
        console.print(
            f"Of {int(right.sum())} consistent figures {basis['recomputed']} follow from other published numbers, "
            f"{basis['design']} are counts and settings of this package's design, and {basis['transcribed']} are the "
            "same in two transcriptions, which says nothing about the figure itself.",
            soft_wrap=True,
        )
    console.print(
        f"{table.height} figures: {int(right.sum())} {passed}, {errors.height} known errors of the write-up, "
        f"{wrong.height} {failed}",
        soft_wrap=True,
    )
    raise typer.Exit(1 if wrong.height else 0)


@app.command()
def lint(
    report: Annotated[Path, typer.Argument(help="report.html or report.md", exists=True, dir_okay=False)],
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """Check that numbers, verdicts and confidence of a report are what their artifact cells say; exit 1 if not.

    Sentences around them are not checked: an edited title or caveat without a number passes.
    """
    from leakage_assets.paths import DATA
    from leakage_assets.reporting.lint import lint_file

    findings = lint_file(report, {"artifacts": artifacts, "published": DATA / "published"})
    for finding in findings:
        console.print(f"{report}: {finding}", markup=False, soft_wrap=True)
    if any("does not exist" in str(finding) for finding in findings):
        console.print(f"artifacts are looked for in {artifacts}: name another folder with --artifacts", soft_wrap=True)
    console.print(f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}")
    raise typer.Exit(1 if findings else 0)


@app.command()
def plan(
    study: StudyName,
    profile: ProfileName = "tiny",
    source: Sources = None,
    recipe: Recipes = None,
    seed: Seeds = None,
    extras: Extras = False,
    hardware: Annotated[str, typer.Option(help="h200, h100, a100, or cpu for this machine's")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    artifacts: ArtifactRoot = ARTIFACTS,
) -> None:
    """What a study would still cost: tokens, FLOP, memory and time on given hardware, before anything is spent."""
    from leakage_assets.pipeline.forecasting import plan_study
    from leakage_assets.pipeline.laboratory import Laboratory
    from leakage_assets.planning.hardware import hardware_named
    from leakage_assets.planning.ledger import read_ledger
    from leakage_assets.profiles import load_profile
    from leakage_assets.store.artifacts import ArtifactStore

    lab = Laboratory(load_profile(profile), ArtifactStore(artifacts))
    spec = lab.profile.study(study)
    cells = spec.chosen_cells(source, recipe, seed)
    planned = plan_study(lab, spec, cells, hardware_named(hardware), read_ledger(), extras=extras)
    if as_json:
        print(json.dumps(planned.as_dict(), indent=2))
    else:
        _print_plan(planned)


@app.command()
def bench(
    write_readme: Annotated[bool, typer.Option(help="write the table into README.md")] = False,
    check: Annotated[bool, typer.Option(help="exit 1 if README.md does not hold this table")] = False,
    readme: Annotated[Path, typer.Option(help="the file between whose markers the table stands")] = README,
) -> None:
    """Print the committed benchmark results beside the published figures and the hardware's bounds."""
    from leakage_assets.planning.ledger import read_bounds, read_ledger
    from leakage_assets.planning.ledger_table import COLUMNS, ledger_rows, markdown_table, with_table
    from leakage_assets.store.files import write_atomically

    bounds, ledger = read_bounds(), read_ledger()
    shown = [place for place, name in enumerate(COLUMNS) if name != "what"]
    rows = [[row[place] for place in shown] for row in ledger_rows(bounds, ledger)]
    console.print(_rows("Ledger (bounds are those of one H200)", [COLUMNS[place] for place in shown], rows))
    if not (write_readme or check):
        return
    written = readme.read_text()
    wanted = with_table(written, markdown_table(bounds, ledger))
    if write_readme:
        write_atomically(readme, wanted.encode())
    elif wanted != written:
        console.print(f"{readme}: not the table of benchmarks/results; run leakage bench --write-readme")
        raise typer.Exit(1)


@app.command()
def pretrain(
    output: Annotated[Path, typer.Argument(help="a new or empty folder")],
    seed: Annotated[int, typer.Option(help="everything random derives from it; by default the bundled model's")] = (
        BUNDLED_SEED
    ),
) -> None:
    """Re-create the bundled tiny base model from a seed, on the CPU, and pass it through its gates."""
    from leakage_assets.pipeline.tiny_base import build_tiny_base

    for gate in build_tiny_base(output, seed=seed, emit=console.print):
        console.print(f"{gate.name}: {gate.value:.4g} (needed {gate.threshold:.4g}, n = {gate.n:,})")


@contextmanager
def _told_when_stopped() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block with a word. Dagster catches both, but only while a step runs."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; finished work is kept: run the same command again to go on")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_headline(study: Study, headline: pl.DataFrame) -> None:
    """What is defined as a table, as the report calls and prints it; what is not, by its reason."""
    from leakage_assets.reporting.report import format_value
    from leakage_assets.studies.registry import statistic_labels

    labels = statistic_labels(study.name)
    rows: list[tuple[str, ...]] = []
    undefined: dict[str, list[str]] = {}
    for row in headline.iter_rows(named=True):
        label, spec = labels.get(row["statistic"], (row["statistic"], ".4g"))
        if row["estimate"] is None:
            undefined.setdefault(row["undefined"], []).append(label)
            continue
        numbers = (format_value(row[name], spec) for name in ("estimate", "ci_low", "ci_high"))
        rows.append((label, *numbers, format_value(row["p"], "p"), f"{row['n']:,}", row["unit"]))
    console.print(_rows(f"{study.title}: headline", ("statistic", "estimate", "low", "high", "p", "n", "counts"), rows))
    for reason, names in undefined.items():
        console.print(f"not defined ({reason}): {'; '.join(names)}", soft_wrap=True, markup=False)


def _print_plan(plan: Plan) -> None:
    from leakage_assets.planning.forecast import describe, hours, size

    stages = ("stage", "done", "tokens left", "TFLOP", "least possible", "forecast", "rests on")
    title = f"{plan.study} on {plan.profile} ({plan.base_model}), one {plan.hardware.title}"
    console.print(_rows(title, stages, describe(plan.stages)))
    parts = ("weights", "kv_cache", "activations", "adapters", "optimiser", "total")
    needs = [
        (
            need.activity,
            *(size(need.memory.as_dict()[part]) for part in parts),
            "fits" if need.fits else "does not fit",
        )
        for need in plan.memory
    ]
    console.print(
        _rows(f"Memory, of {size(plan.hardware.memory)}", ("for", *(p.replace("_", " ") for p in parts), ""), needs)
    )
    console.print(f"cells: {plan.done} of {plan.cells} have a proven adapter; {plan.rows:,} training rows in all")
    for overhead in plan.overheads:
        each = overhead.source if overhead.seconds is None else f"{hours(overhead.seconds)} each ({overhead.source})"
        console.print(f"{overhead.name}: {overhead.count} times, {each}", soft_wrap=True)
    measured = f"forecast of what was measured {hours(plan.measured_seconds)}"
    expected = measured if plan.measured_seconds or not plan.floor else "no forecast"
    missing = f"; no measurement for {', '.join(plan.unmeasured)}" if plan.unmeasured else ""
    least = "not known of a CPU" if plan.bound is None else hours(plan.bound)
    console.print(f"least possible {least}, {expected}{missing}", soft_wrap=True)
    console.print(f"hardware: {plan.hardware.source}", soft_wrap=True)
    for assumption in plan.assumptions:
        console.print(f"assumed: {assumption}", soft_wrap=True, markup=False)


def _rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for position, name in enumerate(columns):
        table.add_column(name, overflow="fold", no_wrap=position == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _table(title: str, frame, columns: tuple[str, ...]) -> Table:  # type: ignore[no-untyped-def]
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(
            name.replace("_", " "), overflow="fold", justify="right" if frame[name].dtype.is_numeric() else "left"
        )
    for row in frame.select(columns).iter_rows():
        table.add_row(*(_text(value) for value in row))
    return table


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float) and value.is_integer():
        return f"{int(value):,}"  # a count: 111,000, not 1.11e+05
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Entry point: errors that name their place and remedy are printed without a traceback."""
    try:
        app()
    except ExpectedError as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
