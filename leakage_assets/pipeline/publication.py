"""Figures and report of a study, from its newest analysis. Plotly and the renderers are imported where they draw."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from leakage_assets.paths import DATA
from leakage_assets.pipeline.conclusions import analysis_tables, require_analysis
from leakage_assets.pipeline.evidence import gather_evidence, relative_folder
from leakage_assets.pipeline.laboratory import Laboratory, Outcome
from leakage_assets.reporting.report import ArtifactFile, Report, ReportError
from leakage_assets.store.artifacts import Artifact
from leakage_assets.store.files import write_atomically
from leakage_assets.studies.context import PUBLISHED, STORE, ReportContext
from leakage_assets.studies.study import Study

if TYPE_CHECKING:
    from leakage_assets.reporting.lint import Finding
    from leakage_assets.reporting.markdown_page import FigureFiles

FINDINGS_SHOWN = 10
LAYOUT = 2
"""Changes when what is printed around a study's text does: 2 binds the confidence."""
CONFIDENCE = "confidence.json"
PAGES = {"html": "report.html", "markdown": "report.md"}


class LintFailed(ReportError):
    """A report in which a number is not what its artifact cell says; the message lists the findings."""


def draw_figures(lab: Laboratory, study: Study) -> Outcome:
    """Every figure that the finished cells allow: an interactive page and a small picture each.

    Raises ``RandomWeightsRefused``; ``ArtifactMissing`` before the analysis.
    """
    lab.refuse_random_weights("figures")
    analysis = require_analysis(lab, study)
    address, identity = _figures_key(lab, study, analysis)
    found = lab.current(address, identity)
    if found is None:
        from leakage_assets.reporting.preview import write_figures

        drawn = study.figures(study, analysis_tables(analysis))
        with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
            write_figures(drawn, draft.folder)
    artifact = found or draft.artifact
    return Outcome(artifact, found is not None, {"figures": len(_pictures(artifact))})


def _figures_key(lab: Laboratory, study: Study, analysis: Artifact) -> tuple[tuple[str, ...], dict[str, object]]:
    identity = {"stage": "figures", "analysis": analysis.manifest.digest, "version": study.report_version}
    return lab.address(study, "figures"), identity


def _pictures(figures: Artifact) -> list[Path]:
    return sorted(figures.folder.glob("*.png"))


def preview_markdown(artifact: Artifact) -> dict[str, str]:
    """Each figure's picture as a markdown image below 100 kB, by name: what Dagster shows as metadata."""
    from leakage_assets.reporting.preview import markdown_image

    return {path.stem: markdown_image(path.read_bytes(), path.stem) for path in _pictures(artifact)}


def write_report(lab: Laboratory, study: Study) -> Outcome:
    """The write-up as HTML and markdown, refused unless numbers, verdicts and confidence are what their cells say.

    Beside the artifact, a copy at ``<profile>/<study>/report.html`` and ``.md`` is replaced, so that the path of the
    newest report stays the same. Raises ``LintFailed``; ``RandomWeightsRefused``; ``ArtifactMissing`` before analysis
    and figures.
    """
    lab.refuse_random_weights("report")
    analysis = require_analysis(lab, study)
    figures = lab.require(*_figures_key(lab, study, analysis), remedy="materialise figures first")
    context = gather_evidence(lab, study, analysis, figures)
    identity = {
        "stage": "report",
        "analysis": analysis.manifest.digest,
        "figures": figures.manifest.digest,
        "facts": context.facts_folder,
        "samples": [str(row.cell) for row in context.samples],
        "published": _published_digest(),
        "version": study.report_version,
        "layout": LAYOUT,
    }
    address = lab.address(study, "report")
    found = lab.current(address, identity)
    if found is None:
        from leakage_assets.reporting.html_page import render_html
        from leakage_assets.reporting.markdown_page import render_markdown

        report = study.report(study, analysis_tables(analysis), context)
        report = with_stored_confidence(lab, study, report, analysis, context)
        with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
            pages = render_html(report), render_markdown(report, _figure_files(report, "../..", lab, figures))
            _refuse_findings(lab, *pages)
            for name, page in zip(PAGES.values(), pages, strict=True):
                (draft.folder / name).write_text(page, encoding="utf-8")
            draft.note(confidence=report.confidence.level)
    artifact = found or draft.artifact
    _publish_copy(lab, study, artifact)
    return Outcome(artifact, found is not None, _metrics(artifact, context))


def with_stored_confidence(
    lab: Laboratory, study: Study, report: Report, analysis: Artifact, context: ReportContext
) -> Report:
    """The report with its level of confidence bound to an artifact that holds it, so that the lint can look it up."""
    confidence = report.confidence
    identity = {
        "stage": "report_confidence",
        "analysis": analysis.manifest.digest,
        "facts": context.facts_folder,
        "level": confidence.level,
    }
    address = lab.address(study, "report_confidence")
    found = lab.find(address, identity)
    if found is None:
        with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
            (draft.folder / CONFIDENCE).write_text(json.dumps({"level": confidence.level}), encoding="utf-8")
        found = draft.artifact
    cell = ArtifactFile(STORE, f"{relative_folder(lab, found)}/{CONFIDENCE}").at("level")
    return replace(report, confidence=replace(confidence, cell=cell))


def stored_confidence(lab: Laboratory, study: Study, analysis: Artifact) -> str | None:
    """The level of the newest report of an analysis; None where it has none."""
    made = [
        found
        for found in lab.store.history(lab.address(study, "report_confidence"))
        if found.manifest.identity["analysis"] == analysis.manifest.digest
    ]
    return str(json.loads((made[-1].folder / CONFIDENCE).read_text(encoding="utf-8"))["level"]) if made else None


def _published_digest() -> str:
    files = sorted((DATA / "published").glob("*.json"))
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _figure_files(report: Report, study_folder: str, lab: Laboratory, figures: Artifact) -> dict[str, FigureFiles]:
    """Where the drawn figures lie, seen from a page whose study's folder is ``study_folder``."""
    from leakage_assets.reporting.markdown_page import FigureFiles

    place = f"{study_folder}/{'/'.join(Path(relative_folder(lab, figures)).parts[2:])}"
    return {b.name: FigureFiles(f"{place}/{b.name}.html", f"{place}/{b.name}.png") for b in report.figures()}


def _refuse_findings(lab: Laboratory, html: str, markdown: str) -> None:
    from leakage_assets.reporting.lint import lint_html, lint_markdown

    stores = {STORE: lab.store.root, PUBLISHED: DATA / "published"}
    found: list[Finding] = [*lint_html(html, stores), *lint_markdown(markdown, stores)]
    if found:
        shown = "\n".join(map(str, found[:FINDINGS_SHOWN]))
        raise LintFailed(f"{len(found)} numbers are not vouched for, nothing was published; the first:\n{shown}")


def _publish_copy(lab: Laboratory, study: Study, artifact: Artifact) -> None:
    """The same pages under a stable path; the markdown's links lead to the same figures from two folders higher."""
    folder = stable_report(lab, study).parent
    for name in PAGES.values():
        text = (artifact.folder / name).read_text(encoding="utf-8")
        write_atomically(folder / name, text.replace("](../../figures/", "](figures/").encode())


def stable_report(lab: Laboratory, study: Study) -> Path:
    """Where the newest HTML report always lies."""
    return lab.store.root.joinpath(*lab.address(study), PAGES["html"])


def verdicts_markdown(lab: Laboratory, study: Study) -> str:
    """The verdicts of the current analysis as a small markdown table: what Dagster shows beside the report."""
    rows = analysis_tables(require_analysis(lab, study))["verdicts"].iter_rows(named=True)
    lines = [f"| {row['hypothesis']} | {row['claim']} | **{row['verdict']}** |" for row in rows]
    return "\n".join(["| | claim | verdict |", "|---|---|---|", *lines])


def _metrics(artifact: Artifact, context: ReportContext) -> dict[str, int | float | str]:
    coverage = context.facts["coverage"]
    return {
        "confidence": artifact.manifest.provenance["confidence"],
        "cells": coverage["cells"],
        "cells_planned": coverage["cells_planned"],
    }


def report_paths(artifact: Artifact) -> dict[str, Path]:
    """The pages of a report by kind."""
    return {kind: artifact.folder / name for kind, name in PAGES.items()}
