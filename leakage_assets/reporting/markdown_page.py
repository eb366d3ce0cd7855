"""A report as markdown: the same content as the page, with figures as links and the bindings as a list at
the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from leakage_assets.reporting.inline import fill
from leakage_assets.reporting.report import (
    Block,
    Bound,
    Bullets,
    CodeBlock,
    FigureBlock,
    Paragraph,
    Report,
    ReportError,
    SampleBlock,
    SampleRow,
    Table,
    block_labels,
    numeric_columns,
    ranked_caveats,
)

BINDINGS_FENCE = "bindings"
SAMPLE_FENCE = "sample"
SAMPLES_PER_KIND = 3  # markdown is for reading: this many with and without the marker; the page has them all


@dataclass(frozen=True, slots=True)
class FigureFiles:
    """Where a figure's interactive page and its preview lie, relative to the markdown file."""

    html: str
    png: str


def render_markdown(report: Report, figure_paths: Mapping[str, FigureFiles]) -> str:
    """The report as GitHub-flavoured markdown in the Summary / Details shape.

    The last block is a collapsed fence with one JSON list per bound number, in order of appearance:
    `[printed, value, format, cell]`. `lint.lint_markdown` walks prose and list side by side.

    Raises:
        UnboundPlaceholderError: prose names a number that no binding provides.
        ReportError: a figure has no files in `figure_paths`.
    """
    return _Writer(report, figure_paths).write()


class _Writer:
    """Collects the bound numbers in the order in which they are printed."""

    def __init__(self, report: Report, figure_paths: Mapping[str, FigureFiles]) -> None:
        self.report = report
        self.figure_paths = figure_paths
        self.printed: list[Bound] = []

    def write(self) -> str:
        report = self.report
        # Parts are built in reading order, because `printed` must be.
        parts = [
            f"# {self.prose(report.title)} ({self.shown(report.confidence.shown)} confidence)",
            f"*Question:* {self.prose(report.question)}",
        ]
        parts += [
            "## TL;DR",
            self.bullets(report.tldr),
            "## Summary",
            self.summary(),
            "## Details",
            self.provenance(),
        ]
        labels = block_labels(report)
        for s, section in enumerate(report.sections):
            parts.append(f"### {self.prose(section.heading)}" + (" (exploratory)" if section.exploratory else ""))
            parts += [self.block(block, labels.get((s, b), "")) for b, block in enumerate(section.blocks)]
        if report.caveats:
            caveats = [f"**{caveat.severity}:** {self.prose(caveat.text)}" for caveat in ranked_caveats(report)]
            parts += ["## Caveats", "\n".join(f"- {caveat}" for caveat in caveats)]
        return "\n\n".join([*parts, self.bindings()]) + "\n"

    def prose(self, text: str) -> str:
        return fill(text, self.report.bindings, self.bound)

    def cell(self, text: str) -> str:
        return self.prose(_one_line(text).replace("|", "\\|"))

    def bound(self, bound: Bound) -> str:
        self.printed.append(bound)
        return escape_markdown(bound.text)

    def shown(self, cell: str | Bound) -> str:
        return self.bound(cell) if isinstance(cell, Bound) else self.cell(cell)

    def bullets(self, items: tuple[str, ...]) -> str:
        return "\n".join(f"- {self.prose(item)}" for item in items)

    def summary(self) -> str:
        lines = []
        for claim in self.report.summary:
            lines.append(f"- **{self.prose(claim.label)}:** {self.prose(claim.text)}")
            lines += [f"  - {self.prose(point)}" for point in claim.points]
        confidence = self.report.confidence
        lines.append(f"- **Confidence: {self.shown(confidence.shown)}** — {self.prose(confidence.reason)}")
        return "\n".join(lines)

    def provenance(self) -> str:
        rows = [f"| {self.prose(row.label)} | {_code_cell(row.value)} |" for row in self.report.provenance]
        table = "\n".join(["| Set-up | Value |", "| --- | --- |", *rows])
        return _collapsed("Set-up and provenance", table)

    def block(self, block: Block, label: str) -> str:
        match block:
            case Paragraph(text):
                return self.prose(text)
            case Bullets(items):
                return self.bullets(items)
            case CodeBlock(text, caption):
                fenced = _fence(text, "text")
                return f"{fenced}\n\n{self.prose(caption)}" if caption else fenced
            case Table():
                return self.table(block, label)
            case FigureBlock():
                return self.figure(block, label)
            case SampleBlock():
                return self.samples(block, label)

    def table(self, table: Table, label: str) -> str:
        caption = f"**{label}.** {self.prose(table.caption)}"
        head = [self.cell(column.label) for column in table.columns]
        numeric = numeric_columns(table)
        lines = [_row(head), _row(["---:" if column.key in numeric else "---" for column in table.columns])]
        for row in table.rows:
            cells = [row[column.key] for column in table.columns]
            lines.append(_row([self.shown(cell) for cell in cells]))
        notes = [f"- *{self.prose(c.label)}*: {self.prose(c.explanation)}" for c in table.columns if c.explanation]
        return "\n\n".join([caption, "\n".join(lines), *(["\n".join(notes)] if notes else [])])

    def figure(self, block: FigureBlock, label: str) -> str:
        if block.name not in self.figure_paths:
            raise ReportError(
                f"figure {block.name!r} has no files in figure_paths; write them with preview.write_figures"
            )
        files = self.figure_paths[block.name]
        caption = f"**{label}.** {self.prose(block.caption)}"
        return f"![{block.name}]({files.png})\n\n{caption} ([interactive]({files.html}))"

    def samples(self, block: SampleBlock, label: str) -> str:
        marked = _spread([row for row in block.samples if block.is_marked(row)])
        unmarked = _spread([row for row in block.samples if not block.is_marked(row)])
        caption = f"**{label}.** {self.prose(block.caption)} All of them are in the HTML report."
        return "\n\n".join([caption, *(_sample(row) for row in (*marked, *unmarked))])

    def bindings(self) -> str:
        lines = [
            json.dumps([bound.text, bound.value, bound.format, str(bound.cell)], ensure_ascii=False)
            for bound in self.printed
        ]
        fence = _fence("\n".join(lines), BINDINGS_FENCE)
        return f"## Bindings\n\n{_collapsed('Every number and its artifact cell', fence)}"


def escape_markdown(text: str) -> str:
    """Text from an artifact, made literal for markdown and its tables."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", _one_line(text))


def _collapsed(summary: str, body: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ticks(text: str, at_least: int) -> str:
    """A run of backticks longer than any in `text`."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(at_least, longest + 1)


def _fence(text: str, info: str) -> str:
    ticks = _ticks(text, 3)
    return f"{ticks}{info}\n{text}\n{ticks}"


def _code_cell(text: str) -> str:
    """A code span inside a table cell, where a pipe must be escaped even in code."""
    ticks = _ticks(text, 1)
    pad = " " if "`" in text else ""
    return f"{ticks}{pad}{_one_line(text)}{pad}{ticks}".replace("|", "\\|")


def _spread(rows: list[SampleRow]) -> list[SampleRow]:
    """A few rows from the beginning, middle and end, because neighbours share prompt and question."""
    return rows[:: max(1, -(-len(rows) // SAMPLES_PER_KIND))]


def _sample(row: SampleRow) -> str:
    where = " · ".join(f"`{part}`" for part in (row.adapter, row.prompt, row.question, f"completion {row.index}"))
    return f"{where}\n\n{_fence(row.text, f'{SAMPLE_FENCE} {row.cell}')}"
