"""YAML with line numbers: a file becomes plain lists, mappings and texts, and every path knows its line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from leakage_assets.stimuli.problems import Problem, quoted

Location = tuple[str | int, ...]

# YAML's own printable set less the line separators that editors show but YAML does not count as new lines.
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
PLAIN_TAGS = {"str": "text", "null": "null", "bool": "a truth value", "int": "a number", "float": "a number"}


@dataclass
class Source:
    """One parsed file. ``data`` is None where the YAML itself is broken; sequences are tuples.

    ``lines`` maps a location (keys and indices from the root) to the 1-based line where it starts.
    """

    file: Path
    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, location: Location) -> int:
        """The line of a location, or of the closest enclosing one that the file has."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def problem(self, location: Location, fault: str) -> Problem:
        return Problem(self.file, self.line(location), field_name(location), fault)


def field_name(location: Location) -> str:
    """``("personas", 3, "traits")`` as ``personas[3].traits``; the root is ``file``."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return name.removeprefix(".") or "file"


def read_source(file: Path) -> Source:
    """Read and parse one file; every fault is recorded in ``problems`` rather than raised."""
    source = Source(file)
    try:
        root = _compose(_read_text(file))
    except _UnusableError as error:
        source.problems.append(Problem(file, error.line, "file", error.fault))
    else:
        source.data = _Builder(source).build(root, ())
    return source


class _UnusableError(Exception):
    """The file has no content that could be looked at further."""

    def __init__(self, line: int, fault: str) -> None:
        self.line, self.fault = line, fault
        super().__init__(fault)


def _read_text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise _UnusableError(1, "is missing; expected a YAML file of the stimuli") from None
    except OSError as error:
        raise _UnusableError(1, f"cannot be read ({error.strerror}); expected a readable file") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        fault = f"byte 0x{raw[error.start]:02x} is not UTF-8; expected the file saved as UTF-8"
        raise _UnusableError(line, fault) from None
    # A byte order mark is legal at the start only.
    strange = UNPRINTABLE.search(text) or re.compile("\ufeff").search(text, 1)
    if strange:
        fault = f"unprintable character {strange.group()!r}; expected printable text"
        raise _UnusableError(text.count("\n", 0, strange.start()) + 1, fault)
    return text


def _compose(text: str) -> yaml.Node:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        fault = f"invalid YAML: {error.problem or error.context}"
        raise _UnusableError(line, f"{fault}; expected well-formed YAML") from error
    except (ValueError, OverflowError, RecursionError) as error:
        # PyYAML lets these through: an escape beyond Unicode, and brackets nested thousands deep.
        fault = f"invalid YAML: {type(error).__name__}"
        raise _UnusableError(loader.line + 1, f"{fault}; expected well-formed YAML") from error
    finally:
        loader.dispose()
    if root is None:
        raise _UnusableError(1, "is empty; expected a YAML mapping")
    return root


class _Builder:
    """Plain values of a node tree; records lines, and refuses what the stimuli never contain."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.seen: set[int] = set()

    def build(self, node: yaml.Node, location: Location) -> Any:
        # setdefault: for an entry of a mapping the line of its key is already known.
        line = self.source.lines.setdefault(location, node.start_mark.line + 1)
        if id(node) in self.seen:
            self._refuse(line, location, "is a YAML alias; expected the value written out")
            return None
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.build(child, (*location, i)) for i, child in enumerate(node.value))
        return self._scalar(node, location)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or _kind(key_node) != "str":
                shown = quoted(str(getattr(key_node, "value", "")))
                self._refuse(line, location, f"key {shown} is not text; expected a quoted or plain name")
                continue
            child = (*location, key_node.value)
            if key_node.value in entries:
                first = self.source.lines[child]
                self._refuse(line, child, f"duplicate key, first on line {first}; expected each key once")
                continue
            self.source.lines[child] = line
            entries[key_node.value] = self.build(value_node, child)
        return entries

    def _scalar(self, node: yaml.Node, location: Location) -> str | None:
        kind, line = _kind(node), node.start_mark.line + 1
        if kind == "null":
            return None
        if kind != "str":
            what = PLAIN_TAGS.get(kind, f"of YAML type {kind}")
            self._refuse(line, location, f"{quoted(node.value)} is {what}; expected text (put it in quotes)")
            return None
        strange = UNPRINTABLE.search(node.value)
        if strange:
            fault = f"unprintable character {strange.group()!r}; expected printable text"
            self._refuse(line, location, fault)
            return None
        return str(node.value)

    def _refuse(self, line: int, location: Location, fault: str) -> None:
        self.source.problems.append(Problem(self.source.file, line, field_name(location), fault))


def _kind(node: yaml.Node) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")
