"""Inline markdown with `{key}` placeholders: the only place where bindings meet prose."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from leakage_assets.reporting.report import Bound, UnboundPlaceholderError

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

# A code span is matched first so that braces inside it stay what they are.
_PIECE = re.compile(r"(?P<ticks>`+).+?(?P=ticks)(?!`)|\{(?P<key>[^{}]*)\}|(?P<stray>[{}])", re.DOTALL)

# Private-use characters survive markdown untouched and cannot occur in prose.
_OPEN, _CLOSE = "\ue000", "\ue001"


def fill(text: str, bindings: Mapping[str, Bound], show: Callable[[Bound], str]) -> str:
    """Replace every placeholder outside code spans by `show` of its binding.

    Raises:
        UnboundPlaceholderError: a placeholder without binding, or a brace that belongs to none.
    """

    def replace(match: re.Match[str]) -> str:
        if match["ticks"]:
            return match[0]
        if match["stray"]:
            raise UnboundPlaceholderError(f"stray {match['stray']!r} in {text!r}; write literal braces in a code span")
        if match["key"] not in bindings:
            raise UnboundPlaceholderError(
                f"no binding for {{{match['key']}}} in {text!r}; bound are: {', '.join(sorted(bindings)) or 'none'}"
            )
        return show(bindings[match["key"]])

    return _PIECE.sub(replace, text)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # No raw HTML and no images: neither markup nor a load from elsewhere can enter through prose.
    return MarkdownIt("commonmark", {"html": False}).disable("image")


def inline_html(text: str, bindings: Mapping[str, Bound], show: Callable[[Bound], str]) -> str:
    """Prose as escaped HTML; `show` returns the HTML of a bound number."""
    shown: list[str] = []

    def remember(bound: Bound) -> str:
        shown.append(show(bound))
        return f"{_OPEN}{len(shown) - 1}{_CLOSE}"

    rendered = _parser().renderInline(fill(text, bindings, remember))
    return re.sub(f"{_OPEN}(\\d+){_CLOSE}", lambda match: shown[int(match[1])], rendered)


def plain_text(text: str, bindings: Mapping[str, Bound]) -> str:
    """Prose without markup, for a window title."""
    return re.sub(r"[`*]", "", fill(text, bindings, lambda bound: bound.text))
