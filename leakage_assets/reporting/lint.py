"""The lint of a rendered report: every number is bound, and every bound cell still holds its value.

So are the words that carry the conclusion: the level of confidence wherever it stands, and a verdict wherever it is set
in bold or fills a cell of a table. In a sentence ("it is undecided whether") such a word is prose.

It reads the finished HTML or markdown, not the `Report` it came from, so it also catches what was edited
afterwards. Numbers compare as printed: the cell's value, formatted as the number was, must give the same
characters. Code spans and code blocks are exempt; a name with digits in prose (a model, a layer) is bound or
set in a code span.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import parse_qsl

from leakage_assets.exceptions import ExpectedError
from leakage_assets.reporting.markdown_page import BINDINGS_FENCE, SAMPLE_FENCE
from leakage_assets.reporting.report import CellAddress, Level, ReportError, Value, format_value

if TYPE_CHECKING:
    import polars as pl

_LABEL = re.compile(r"(Figure|Table|Samples) \d+\.")
# Starts at any digit, so that none escapes; a minus belongs to it unless it joins words or ends a range.
_NUMBER = re.compile(r"(?:(?<!\w)-)?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?%?")
# "caps it at LOW" names a rule, not how sure this report is.
_LEVEL = re.compile(rf"(?<!caps it at )\b(?:{'|'.join(get_args(Level))})\b")
_VERDICT = re.compile(r"\b(?:not supported|supported|undecided)\b")
_TYPED = re.compile(f"{_NUMBER.pattern}|{_LEVEL.pattern}")
_BOUND = re.compile(f"{_TYPED.pattern}|{_VERDICT.pattern}")
_CONTEXT = 40
_BINDS_HTML = re.compile(r"<data [^>]*data-cell=")
_BINDS_MARKDOWN = re.compile(rf"^`{{3,}} ?{BINDINGS_FENCE}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation: where in the text, and what is wrong."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def lint_html(html: str, stores: Mapping[str, Path]) -> list[Finding]:
    """Check a page of `render_html`; no findings means passed.

    Args:
        stores: the folder of every store that cell addresses name, such as `artifacts`.
    """
    page = _Page()
    page.feed(html)
    page.close()
    cells = Cells(stores)
    return [*page.findings, *_check_numbers(page.numbers, cells), *_check_samples(page.samples, cells)]


def lint_markdown(text: str, stores: Mapping[str, Path]) -> list[Finding]:
    """Check a text of `render_markdown`, as `lint_html` does."""
    document = _Document(text)
    cells = Cells(stores)
    return [
        *document.unbound_digits(),
        *_check_numbers(document.numbers, cells),
        *_check_samples(document.samples, cells),
    ]


class NoReportError(ExpectedError):
    """A file is no report, so nothing can be said about its numbers; the message says where reports are."""


def lint_file(path: Path, stores: Mapping[str, Path]) -> list[Finding]:
    """Check a page (``.html``) or a markdown file as the two above do.

    Raises:
        NoReportError: it is not text, or binds no number: every report says of its numbers which cells they are from.
    """
    page = path.suffix == ".html"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    if not (_BINDS_HTML if page else _BINDS_MARKDOWN).search(text):
        raise NoReportError(
            f"{path} is no whole report of this package: it does not say which artifact cells its numbers are from. "
            "Give the report.html or report.md of a study; `leakage show STUDY` prints where it is"
        )
    return (lint_html if page else lint_markdown)(text, stores)


# ------------------------------------------------------------------ artifact cells


class CellError(Exception):
    """An address that leads to no cell; the message says what is there instead."""


class Cells:
    """Reads cells of json, parquet and csv files, each file once."""

    def __init__(self, stores: Mapping[str, Path]) -> None:
        self._stores = stores
        self._json: dict[Path, Any] = {}
        self._tables: dict[Path, pl.DataFrame] = {}
        self._rows: dict[tuple[Path, tuple[str, ...]], dict[tuple[str | None, ...], list[int]]] = {}

    def read(self, address: CellAddress) -> Any:
        """The value of a cell. Raises CellError where the address does not lead to exactly one."""
        if address.store not in self._stores:
            raise CellError(f"no store {address.store!r}; known are {', '.join(self._stores) or 'none'}")
        path = self._stores[address.store] / address.file
        if not path.exists():
            raise CellError(f"{path} does not exist")
        return self._pointed(path, address.path) if path.suffix == ".json" else self._looked_up(path, address.path)

    def _pointed(self, path: Path, pointer: str) -> Any:
        if path not in self._json:
            self._json[path] = json.loads(path.read_text(encoding="utf-8"))
        value = self._json[path]
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            try:
                value = value[int(key)] if isinstance(value, list) else value[key]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise CellError(f"{path} has nothing at {pointer}") from error
        return value

    def _looked_up(self, path: Path, query: str) -> Any:
        column, _, keys = query.partition("?")
        pairs = parse_qsl(keys, keep_blank_values=True, strict_parsing=bool(keys))
        table = self._table(path)
        absent = [name for name in (column, *(name for name, _ in pairs)) if name not in table.columns]
        if absent:
            raise CellError(f"{path} has no column {', '.join(absent)}")
        names = tuple(name for name, _ in pairs)
        rows = self._index(path, names).get(tuple(value for _, value in pairs), [])
        if len(rows) != 1:
            raise CellError(f"{path}: {len(rows)} rows match {keys!r}; expected exactly one")
        return table[column][rows[0]]

    def _table(self, path: Path) -> pl.DataFrame:
        import polars as pl

        if path not in self._tables:
            try:
                if path.is_dir():
                    self._tables[path] = pl.read_parquet(path / "*.parquet")
                elif path.suffix == ".csv":
                    self._tables[path] = pl.read_csv(path)
                else:
                    self._tables[path] = pl.read_parquet(path)
            except (pl.exceptions.PolarsError, OSError) as error:
                raise CellError(f"{path} cannot be read: {error}") from error
        return self._tables[path]

    def _index(self, path: Path, names: tuple[str, ...]) -> dict[tuple[str | None, ...], list[int]]:
        """Row numbers by the key columns as text: a report cites hundreds of rows of one file."""
        import polars as pl

        if (path, names) not in self._rows:
            rows: dict[tuple[str | None, ...], list[int]] = {}
            for position, key in enumerate(self._table(path).select(pl.col(*names).cast(pl.String)).iter_rows()):
                rows.setdefault(key, []).append(position)
            self._rows[path, names] = rows
        return self._rows[path, names]


# ------------------------------------------------------------------ checks


@dataclass(frozen=True, slots=True)
class _Number:
    """A bound number as the document shows it."""

    where: str
    printed: str
    value: str  # JSON
    format: str
    cell: str


@dataclass(frozen=True, slots=True)
class _Sample:
    where: str
    text: str
    cell: str


def _check_numbers(numbers: Iterable[_Number], cells: Cells) -> Iterable[Finding]:
    for number in numbers:
        try:
            noted = format_value(json.loads(number.value), number.format)
            held = format_value(_value(cells.read(CellAddress.parse(number.cell))), number.format)
        except (CellError, ReportError, ValueError, TypeError) as error:
            yield Finding(number.where, f"{number.printed!r} bound to {number.cell}: {error}")
            continue
        if _spaced(number.printed) != _spaced(held):
            yield Finding(number.where, f"prints {number.printed!r}, but {number.cell} holds {held!r}")
        elif _spaced(number.printed) != _spaced(noted):
            yield Finding(number.where, f"prints {number.printed!r}, but notes the value {number.value}")


def _check_samples(samples: Iterable[_Sample], cells: Cells) -> Iterable[Finding]:
    for sample in samples:
        try:
            stored = str(cells.read(CellAddress.parse(sample.cell)))
        except (CellError, ReportError, ValueError) as error:
            yield Finding(sample.where, f"sample {sample.cell}: {error}")
            continue
        if _lines(stored) != _lines(sample.text):
            yield Finding(sample.where, f"the sample differs from {sample.cell}")


def _value(value: Any) -> Value:
    if value is None or isinstance(value, int | float | str):
        return value
    raise CellError(f"holds a {type(value).__name__}, not a number or text")


def _spaced(text: str) -> str:
    """Markdown and HTML both collapse white space."""
    return " ".join(text.split())


def _lines(text: str) -> str:
    """Line ends and NUL as markdown normalises them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def _typed(prose: str, where: str) -> list[Finding]:
    return [_unbound(where, prose, match) for match in _TYPED.finditer(prose)]


def _unbound(where: str, prose: str, match: re.Match[str]) -> Finding:
    context = _spaced(prose[max(0, match.start() - _CONTEXT) : match.end() + _CONTEXT])
    return Finding(where, f"{match[0]!r} is not bound to an artifact cell, in: …{context}…")


# ------------------------------------------------------------------ html


class _Page(HTMLParser):
    """Separates a page into prose, bound numbers and samples."""

    SKIPPED = frozenset({"data", "script", "style", "code", "pre", "title"})
    HEADINGS = frozenset({"h1", "h2"})
    STANDING = frozenset({"strong", "td"})
    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.findings: list[Finding] = []
        self.numbers: list[_Number] = []
        self.samples: list[_Sample] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self._heading = "top"
        self._text = ""  # of the innermost data or script element
        self._title = ""  # of the heading being read

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.VOID:
            return
        self._open.append((tag, {name: value or "" for name, value in attrs}))
        if tag in {"data", "script"}:
            self._text = ""
        if tag in self.HEADINGS:
            self._title = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID or not self._open:
            return
        opened, attributes = self._open.pop()
        if opened != tag:
            self.findings.append(Finding(self._heading, f"<{opened}> is closed by </{tag}>: the page was damaged"))
        if tag in self.HEADINGS:
            self._heading = _spaced(self._title)
        if tag == "script" and attributes.get("class") == "sample-data":
            for row in json.loads(self._text):
                text = "".join(piece for piece, _ in row["segments"])
                self.samples.append(_Sample(self._heading, text, row["cell"]))
        if tag == "data":
            where = self._heading
            if {"value", "data-format", "data-cell"} <= attributes.keys():
                fields = attributes["value"], attributes["data-format"], attributes["data-cell"]
                self.numbers.append(_Number(where, self._text, *fields))
            else:
                self.findings.append(Finding(where, f"{self._text!r} is marked as bound but names no cell"))

    def handle_data(self, data: str) -> None:
        self._text += data
        self._title += data
        if self.SKIPPED & {tag for tag, _ in self._open}:
            return
        if self._open and self._open[-1][1].get("class") == "label" and _LABEL.fullmatch(data):
            return
        self.findings += _typed(data, self._heading)
        standing = self._open and self._open[-1][0] in self.STANDING and _VERDICT.fullmatch(_spaced(data))
        if standing:
            self.findings.append(_unbound(self._heading, _spaced(data), standing))


# ------------------------------------------------------------------ markdown


@dataclass(frozen=True, slots=True)
class _Prose:
    """A paragraph, heading, item or cell, and what stands in it for itself: its whole text, and what is bold."""

    heading: str
    text: str
    standing: frozenset[str]

    def must_bind(self, token: str) -> bool:
        """Whether a token that no binding printed was typed by hand: a verdict within a sentence is prose."""
        return not _VERDICT.fullmatch(token) or token in self.standing


def _bold(children: Iterable[Any]) -> Iterable[str]:
    """The texts set in bold within inline markdown."""
    bold: str | None = None
    for child in children:
        if child.type == "strong_open":
            bold = ""
        elif child.type == "strong_close":
            yield _spaced(bold or "")
            bold = None
        elif bold is not None:
            bold += child.content


@dataclass
class _Document:
    """Separates markdown into prose, the list of bound numbers and samples."""

    text: str
    numbers: list[_Number] = field(default_factory=list)
    samples: list[_Sample] = field(default_factory=list)
    _prose: list[_Prose] = field(default_factory=list)

    def __post_init__(self) -> None:
        heading, in_heading = "top", False
        for token in self._tokens:
            if token.type == "heading_open":
                in_heading = True
            elif token.type == "inline":
                pieces = [child.content if child.type == "text" else " " for child in token.children or []]
                prose = _spaced("".join(pieces))
                if in_heading:
                    heading, in_heading = prose, False
                shown = _LABEL.sub("", prose, count=1) if _LABEL.match(prose) else prose
                self._prose.append(_Prose(heading, shown, frozenset({prose, *_bold(token.children or [])})))
            elif token.type in {"html_block", "html_inline"}:
                self._prose.append(_Prose(heading, re.sub(r"<[^>]*>", " ", token.content), frozenset()))
            elif token.type == "fence":
                self._fence(token.info, token.content, heading)

    @cached_property
    def _tokens(self) -> list[Any]:
        from markdown_it import MarkdownIt

        return MarkdownIt("commonmark").enable("table").parse(self.text)

    def _fence(self, info: str, content: str, heading: str) -> None:
        kind, _, cell = info.partition(" ")
        if kind == SAMPLE_FENCE:
            self.samples.append(_Sample(heading, content.removesuffix("\n"), cell))
        if kind == BINDINGS_FENCE:
            for line in content.splitlines():
                printed, value, spec, address = json.loads(line)
                self.numbers.append(
                    _Number(f"binding {len(self.numbers) + 1}", printed, json.dumps(value), spec, address)
                )

    def unbound_digits(self) -> list[Finding]:
        """Align the numbers, levels and verdicts of the prose with those of the list; what has no partner was edited,
        or typed by hand.
        """
        shown = [(prose, match) for prose in self._prose for match in _BOUND.finditer(prose.text)]
        listed = [(number, token) for number in self.numbers for token in _BOUND.findall(number.printed)]
        matcher = SequenceMatcher(None, [m[0] for _, m in shown], [token for _, token in listed], autojunk=False)
        findings = []
        for kind, a0, a1, b0, b1 in matcher.get_opcodes():
            if kind != "equal":
                findings += [_unbound(p.heading, p.text, match) for p, match in shown[a0:a1] if p.must_bind(match[0])]
                findings += [Finding(n.where, f"{n.printed!r} is listed but not in the text") for n, _ in listed[b0:b1]]
        return findings
