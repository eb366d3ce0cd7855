"""The figures and the report of a small study after an analysis, and what is asked of them."""

from __future__ import annotations

from leakage_assets.paths import DATA
from leakage_assets.pipeline.conclusions import analysis_tables
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.publication import draw_figures, report_paths, write_report
from leakage_assets.reporting.lint import lint_html, lint_markdown
from leakage_assets.store.artifacts import Artifact
from leakage_assets_tests.small_study import the_study


class WrittenReport:
    """A laboratory, the tables of its analysis, and the report in both forms."""

    def __init__(self, lab: Laboratory, analysis: Artifact) -> None:
        self.lab, self.study = lab, the_study(lab)
        self.tables = analysis_tables(analysis)
        self.figures = draw_figures(lab, self.study)
        self.outcome = write_report(lab, self.study)
        pages = report_paths(self.outcome.artifact)
        self.html, self.markdown = (pages[kind].read_text() for kind in ("html", "markdown"))

    def findings(self) -> list:
        """What the lint holds against either form."""
        stores = {"artifacts": self.lab.store.root, "published": DATA / "published"}
        return lint_html(self.html, stores) + lint_markdown(self.markdown, stores)

    @property
    def title(self) -> str:
        return self.markdown.splitlines()[0]

    @property
    def headings(self) -> list[str]:
        return [line.lstrip("# ") for line in self.markdown.splitlines() if line.startswith("#")]

    def headline(self, statistic: str, column: str = "estimate") -> float | str | None:
        return self.tables["headline"].filter(statistic=statistic)[column].item()

    def verdict(self, hypothesis: str) -> str:
        return str(self.tables["verdicts"].filter(hypothesis=hypothesis)["verdict"].item())
