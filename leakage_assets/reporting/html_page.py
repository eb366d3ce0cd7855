"""A report as one HTML file that needs neither a network nor any other file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from leakage_assets.reporting.figures import CONFIG, DARK
from leakage_assets.reporting.inline import inline_html, plain_text
from leakage_assets.reporting.report import (
    Bound,
    Report,
    SampleBlock,
    block_labels,
    numeric_columns,
    ranked_caveats,
    slug,
)

TEMPLATES = Path(__file__).parent / "templates"


def render_html(report: Report) -> str:
    """The report as a self-contained page: plotly.js inlined once, figures and samples as inert JSON.

    Every bound number is `<data value="…" data-format="…" data-cell="…">printed</data>`, which
    `lint.lint_html` checks.

    Raises:
        UnboundPlaceholderError: prose names a number that no binding provides.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def inline(text: str) -> Markup:
        return Markup(inline_html(text, report.bindings, _bound_html))

    filters: dict[str, Callable[[Any], object]] = {
        "inline": inline,
        "shown": lambda cell: Markup(_bound_html(cell)) if isinstance(cell, Bound) else inline(cell),
        "kind": lambda block: type(block).__name__,
        "slug": slug,
        "figure_json": lambda block: _script_safe(block.figure.to_json()),
        "sample_json": _sample_json,
        "numeric_columns": numeric_columns,
    }
    environment.filters |= filters
    has_figures = any(True for _ in report.figures())
    return environment.get_template("report.html.j2").render(
        report=report,
        window_title=plain_text(report.title, report.bindings),
        labels=block_labels(report),
        caveats=ranked_caveats(report),
        dark=DARK,
        config=CONFIG,
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly_js=Markup(get_plotlyjs()) if has_figures else "",
    )


def _asset(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _bound_html(bound: Bound) -> str:
    tag = Markup('<data value="{}" data-format="{}" data-cell="{}">{}</data>')
    return str(tag.format(bound.encoded, bound.format, str(bound.cell), bound.text))


def _script_safe(text: str) -> Markup:
    """JSON that cannot close the script element it sits in; JSON.parse reads it back unchanged."""
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _sample_json(block: SampleBlock) -> Markup:
    rows = [
        {
            "adapter": row.adapter,
            "source": row.source,
            "prompt": row.prompt,
            "question": row.question,
            "index": row.index,
            "segments": block.segments(row.text),
            "cell": str(row.cell),
        }
        for row in block.samples
    ]
    return _script_safe(json.dumps(rows, ensure_ascii=False))
