"""What a report is made of: plain values, no rendering.

Prose is inline markdown (bold, emphasis, code spans, links) in which a number is written as a `{key}`
placeholder. `Report.bindings` says for each key which value it is, how it is printed and which artifact cell
holds it, so a number cannot be typed by hand: `html_page` and `markdown_page` refuse an unbound placeholder
and `lint` refuses a digit that no binding printed.

Nothing heavy is imported here: a study module may build a `Report` without paying for plotly or jinja2.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import urlencode

from leakage_assets.exceptions import ExpectedError

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

Value = int | float | str | bool | None
Key = str | int | bool
Level = Literal["HIGH", "MODERATE", "LOW"]
Severity = Literal["critical", "major", "minor"]

ABSENT = "–"
SMALLEST_PLAIN_P = 0.001


class ReportError(ExpectedError):
    """A report that must not be rendered; the message names the place and the remedy."""


class UnboundPlaceholderError(ReportError):
    """Prose names a number that no binding provides."""


# ------------------------------------------------------------------ bound numbers


@dataclass(frozen=True, slots=True)
class CellAddress:
    """One cell of one artifact file, printed as `<store>:<file>#<path>`.

    `store` names a root folder that the lint is told (`artifacts`, `published`); `file` is relative to it and
    includes the fingerprint folder, so a re-run never changes what an old report cites. `path` depends on the
    kind of file: a JSON pointer (RFC 6901, `/pooled/rho`) in `.json`; `column?key=value&...` choosing exactly
    one row in `.parquet`, `.csv` or a folder of parquet shards.
    """

    store: str
    file: str
    path: str

    def __post_init__(self) -> None:
        place = PurePosixPath(self.file)
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.store):
            raise ReportError(f"cell address: store {self.store!r}: expected a lower-case name such as 'artifacts'")
        if not self.file or place.is_absolute() or ".." in place.parts or "#" in self.file:
            raise ReportError(
                f"cell address: file {self.file!r}: expected a path inside store {self.store!r}, without '..' or '#'"
            )
        if not self.path:
            raise ReportError(f"cell address: {self.store}:{self.file}: the cell path is empty")

    def __str__(self) -> str:
        return f"{self.store}:{self.file}#{self.path}"

    @classmethod
    def parse(cls, text: str) -> CellAddress:
        """Inverse of `str`; raises ReportError on anything else."""
        match = re.fullmatch(r"([^:#]*):([^#]*)#(.*)", text, flags=re.DOTALL)
        if match is None:
            raise ReportError(f"cell address {text!r}: expected <store>:<file>#<path>")
        return cls(*match.groups())


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file (or folder of parquet shards) of a store; makes the addresses of its cells."""

    store: str
    file: str

    def at(self, *keys: str | int) -> CellAddress:
        """The cell of a JSON file under nested keys or list positions, as a JSON pointer."""
        pointer = "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)
        return CellAddress(self.store, self.file, pointer)

    def row(self, column: str, keys: Mapping[str, Key]) -> CellAddress:
        """The cell of a table in `column`, in the one row where every key column equals its value."""
        text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in keys.items()}
        return CellAddress(self.store, self.file, f"{column}?{urlencode(text)}")


def format_value(value: Value, spec: str) -> str:
    """Print a value: a Python format spec (`.2f`, `.1%`, `,d`), `p` for p-values (three decimals, below 0.001 as
    `2.0e-55`), or for a difference of two shares `points`, in percentage points (`+32.5 points`), and
    `unsigned points` for a limit of one either way (`6 points`).

    Text takes the empty spec, truth values print as yes/no, None (a quantity that is not defined) as an en
    dash.
    """
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError(f"{value} cannot be printed; store null where a quantity is not defined")
    if spec == "p":
        number = float(value)
        return f"{number:.3f}" if number >= SMALLEST_PLAIN_P else f"{number:.1e}"
    try:
        if spec == "unsigned points":
            return f"{100 * float(value):.3g} points"
        return f"{100 * float(value):+z.1f} points" if spec == "points" else format(value, spec)
    except ValueError as error:
        raise ReportError(f"{value!r} cannot be printed with format {spec!r}: {error}") from error


@dataclass(frozen=True, slots=True)
class Bound:
    """A value, how it is printed, and the artifact cell it was read from."""

    value: Value
    format: str
    cell: CellAddress

    def __post_init__(self) -> None:
        if not isinstance(self.value, int | float | str | None):
            raise ReportError(f"{self.cell}: {type(self.value).__name__} is not a JSON value; convert it with .item()")
        try:
            format_value(self.value, self.format)
        except ReportError as error:
            raise ReportError(f"{self.cell}: {error}") from error

    @property
    def text(self) -> str:
        """The value as printed."""
        return format_value(self.value, self.format)

    @property
    def encoded(self) -> str:
        """The value at full precision, as JSON."""
        return json.dumps(self.value, ensure_ascii=False)


# ------------------------------------------------------------------ blocks


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Verbatim text, such as one training row; not prose, so the lint leaves its digits alone."""

    text: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A row's entry `key`; `format` is that of `format_value`, `explanation` is shown under the table."""

    key: str
    label: str
    format: str = ""
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of prose (inline markdown) and bound values; a bare number is refused: nothing vouches for it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, str | Bound], ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise ReportError(f"table {self.caption!r} has no rows")
        for position, row in enumerate(self.rows):
            for column in self.columns:
                cell = row.get(column.key)
                if not isinstance(cell, str | Bound):
                    raise ReportError(
                        f"table {self.caption!r}, row {position}, column {column.key!r}: "
                        f"expected text or a Bound value, found {cell!r}"
                    )


@dataclass(frozen=True, slots=True)
class FigureBlock:
    """A plotly figure; `name` is its file name without suffix, unique in a report."""

    name: str
    figure: go.Figure
    caption: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise ReportError(f"figure name {self.name!r}: expected lower-case letters, digits, '_' and '-'")


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One completion; `cell` addresses its stored text, so that the lint can tell that it is real."""

    adapter: str
    source: str
    prompt: str
    question: str
    index: int
    text: str
    cell: CellAddress


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """A browser of sampled completions; every occurrence of a marker, in any case, is highlighted."""

    caption: str
    samples: tuple[SampleRow, ...]
    markers: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.samples:
            raise ReportError(f"samples {self.caption!r} has no rows")
        if not self.markers or not all(self.markers):
            raise ReportError(f"samples {self.caption!r}: expected at least one non-empty marker")

    def segments(self, text: str) -> list[tuple[str, bool]]:
        """`text` cut into pieces, each with whether it is a marker; joined they are `text` again."""
        pattern = "|".join(re.escape(marker) for marker in self.markers)
        pieces = re.split(f"({pattern})", text, flags=re.IGNORECASE)
        return [(piece, position % 2 == 1) for position, piece in enumerate(pieces) if piece]

    def is_marked(self, row: SampleRow) -> bool:
        """Whether the completion contains a marker."""
        return any(marked for _, marked in self.segments(row.text))


Block = Paragraph | Bullets | CodeBlock | Table | FigureBlock | SampleBlock


# ------------------------------------------------------------------ report


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of the summary, labelled Motivation, Experiment, Results, Takeaways or Next steps."""

    label: str
    text: str
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure the title is; title and summary both print this value, so they cannot disagree.

    `cell` is where the level is stored; the lint refuses a page whose level is bound to none.
    """

    level: Level
    reason: str
    n_seeds: int
    cell: CellAddress | None = None

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise ReportError(f"confidence {self.level!r}: expected one of {', '.join(get_args(Level))}")
        if self.level == "HIGH" and self.n_seeds < 2:
            raise ReportError("confidence HIGH with a single seed: one seed caps it at MODERATE")

    @property
    def shown(self) -> Bound | str:
        """The level as a table takes its cells: bound where a cell holds it."""
        return self.level if self.cell is None else Bound(self.level, "", self.cell)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its blocks; `exploratory` marks what the frozen plan did not announce."""

    heading: str
    blocks: tuple[Block, ...]
    exploratory: bool = False


@dataclass(frozen=True, slots=True)
class Caveat:
    severity: Severity
    text: str

    def __post_init__(self) -> None:
        if self.severity not in get_args(Severity):
            raise ReportError(f"caveat severity {self.severity!r}: expected one of {', '.join(get_args(Severity))}")


@dataclass(frozen=True, slots=True)
class ProvenanceRow:
    """One line of the set-up, taken from a manifest or a spec; printed verbatim as code."""

    label: str
    value: str


@dataclass(frozen=True)
class Report:
    """One result: what was asked, the claim, the evidence, and the cells every number came from."""

    title: str
    question: str
    confidence: Confidence
    tldr: tuple[str, ...]
    summary: tuple[Claim, ...]
    sections: tuple[Section, ...]
    caveats: tuple[Caveat, ...]
    provenance: tuple[ProvenanceRow, ...]
    bindings: Mapping[str, Bound] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, names in (
            ("figure name", [figure.name for figure in self.figures()]),
            ("section anchor", [slug(section.heading) for section in self.sections]),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ReportError(f"{what} used more than once: {', '.join(repeated)}")

    def figures(self) -> Iterator[FigureBlock]:
        """Every figure, in reading order."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, FigureBlock):
                    yield block


def ranked_caveats(report: Report) -> list[Caveat]:
    """Caveats, the most severe first, in the given order within a severity."""
    order = get_args(Severity)
    return sorted(report.caveats, key=lambda caveat: order.index(caveat.severity))


def numeric_columns(table: Table) -> frozenset[str]:
    """Keys of the columns that are aligned as numbers: those with a number in any row."""

    def is_number(cell: str | Bound) -> bool:
        return isinstance(cell, Bound) and isinstance(cell.value, int | float)

    return frozenset(c.key for c in table.columns if any(is_number(row[c.key]) for row in table.rows))


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


# ------------------------------------------------------------------ from artifacts


def bound_cell(frame: pl.DataFrame, file: ArtifactFile, column: str, spec: str, keys: Mapping[str, Key]) -> Bound:
    """The value of `column` in the one row of `frame` where every key column equals its value, bound to
    `file`.

    Raises ReportError when no row, or more than one, has these keys.
    """
    rows = frame.filter(**keys)
    if rows.height != 1:
        raise ReportError(f"{file.file}: {rows.height} rows have {dict(keys)}; expected exactly one")
    return Bound(rows[column].item(), spec, file.row(column, keys))


def table_from_frame(
    caption: str, columns: Sequence[Column], frame: pl.DataFrame, file: ArtifactFile, keys: Sequence[str]
) -> Table:
    """A table of which every cell is bound to `file`.

    Args:
        frame: rows of `file` (all of it, or a selection), with the columns named by `columns` and `keys`.
        file: the parquet or csv file that the frame was read from.
        keys: columns that together identify one row of the file.

    Raises:
        ReportError: a column is absent, a key does not identify its row, or a number is NaN (store null
            instead).
    """
    absent = [name for name in (*keys, *(column.key for column in columns)) if name not in frame.columns]
    if absent:
        raise ReportError(
            f"table {caption!r}: {file.file} has no column {', '.join(absent)}; it has {', '.join(frame.columns)}"
        )
    repeated = frame.height - frame.select(keys).n_unique() if frame.height else 0
    if repeated:
        raise ReportError(
            f"table {caption!r}: {', '.join(keys)} do not identify a row; {repeated} rows share their keys with another"
        )
    rows = []
    for row in frame.iter_rows(named=True):
        identity = {name: row[name] for name in keys}
        rows.append(
            {column.key: Bound(row[column.key], column.format, file.row(column.key, identity)) for column in columns}
        )
    return Table(caption, tuple(columns), tuple(rows))


def sample_rows(samples: pl.DataFrame, *, source: str, shards: ArtifactFile) -> tuple[SampleRow, ...]:
    """Rows for a `SampleBlock` from the sample store.

    Args:
        samples: columns sample_id, adapter, prompt_name, question_name, index, text (`SampleStore.frame`, or
            a selection).
        source: the prompt the adapter was trained under.
        shards: the folder of the sample store.
    """
    return tuple(
        SampleRow(
            adapter=row["adapter"],
            source=source,
            prompt=row["prompt_name"],
            question=row["question_name"],
            index=row["index"],
            text=row["text"],
            cell=shards.row("text", {"sample_id": row["sample_id"]}),
        )
        for row in samples.iter_rows(named=True)
    )


def block_labels(report: Report) -> dict[tuple[int, int], str]:
    """`Figure 1`, `Table 1`, `Samples 1` in reading order, by (section, block) position; other blocks carry
    none.
    """
    kinds = {FigureBlock: "Figure", Table: "Table", SampleBlock: "Samples"}
    counts = dict.fromkeys(kinds.values(), 0)
    labels: dict[tuple[int, int], str] = {}
    for s, section in enumerate(report.sections):
        for b, block in enumerate(section.blocks):
            if kind := kinds.get(type(block)):
                counts[kind] += 1
                labels[s, b] = f"{kind} {counts[kind]}"
    return labels
