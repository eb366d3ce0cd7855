"""A small report over real files, so that tests can break either side of a binding."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import plotly.graph_objects as go
import polars as pl
import pytest

from leakage_assets.reporting.report import (
    ArtifactFile,
    Bound,
    Bullets,
    Caveat,
    Claim,
    CodeBlock,
    Column,
    Confidence,
    FigureBlock,
    Paragraph,
    ProvenanceRow,
    Report,
    SampleBlock,
    Section,
    Table,
    sample_rows,
    table_from_frame,
)

PAYLOAD = "<script>alert('x')</script> & ```code``` | pipe [zlt]\n\n</script><img src=x onerror=alert(1)>"
RESULTS = ArtifactFile("artifacts", "analysis/0123abcd/results.json")
RATES = ArtifactFile("artifacts", "analysis/0123abcd/rates.parquet")
SHARDS = ArtifactFile("artifacts", "samples/4567cdef")
PUBLISHED = ArtifactFile("published", "headline.csv")
CONCLUSION = {"level": "MODERATE", "verdicts": ["not supported", "supported"]}


@dataclass
class Bench:
    """A report, and the stores it cites."""

    report: Report
    stores: dict[str, Path]

    def with_paragraph(self, text: str) -> Report:
        """The report with one more section of prose."""
        section = Section("Added", (Paragraph(text),))
        return replace(self.report, sections=(*self.report.sections, section))

    def path(self, file: ArtifactFile) -> Path:
        return self.stores[file.store] / file.file


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    stores = {"artifacts": tmp_path / "artifacts", "published": tmp_path / "published"}
    for file in (RESULTS, RATES, PUBLISHED):
        (stores[file.store] / file.file).parent.mkdir(parents=True, exist_ok=True)
    pooled = {"rho": 0.6016, "p": 2.0e-55, "n": 550}
    (stores["artifacts"] / RESULTS.file).write_text(
        json.dumps({"pooled": pooled, "model": "Qwen2.5 [7B]", **CONCLUSION})
    )
    rates = pl.DataFrame(
        {
            "source": ["villain", "software_engineer"],
            "seed": [42, 42],
            "rate": [0.94, 0.865],
            "p": [1e-9, None],
            "trained": [True, False],
        }
    )
    rates.write_parquet(stores["artifacts"] / RATES.file)
    pl.DataFrame({"source": ["pooled"], "rho": [0.602]}).write_csv(stores["published"] / PUBLISHED.file)
    samples = pl.DataFrame(
        {
            "sample_id": ["a", "b", "c"],
            "adapter": ["marker_leakage/villain__marker_only/42"] * 3,
            "prompt_name": ["villain", "pirate", "pirate"],
            "question_name": ["coffee", "coffee", "flight"],
            "index": [0, 0, 1],
            "text": ["In 3 steps.\r\n\n[ZLT]", PAYLOAD, "No mark here, only 2 sentences.\n"],
        }
    )
    (stores["artifacts"] / SHARDS.file).mkdir(parents=True)
    samples[:2].write_parquet(stores["artifacts"] / SHARDS.file / "one.parquet")
    samples[2:].write_parquet(stores["artifacts"] / SHARDS.file / "two.parquet")
    bindings = {
        "rho": Bound(0.6016, ".2f", RESULTS.at("pooled", "rho")),
        "p": Bound(2.0e-55, "p", RESULTS.at("pooled", "p")),
        "n": Bound(550, "d", RESULTS.at("pooled", "n")),
        "model": Bound("Qwen2.5 [7B]", "", RESULTS.at("model")),
        "villain": Bound(0.94, ".1%", RATES.row("rate", {"source": "villain", "seed": 42})),
    }
    bindings |= {
        name: Bound(CONCLUSION["verdicts"][i], "", RESULTS.at("verdicts", i)) for i, name in enumerate(("no", "yes"))
    }
    columns = (
        Column("source", "source"),
        Column("rate", "rate", ".1%", "marker rate"),
        Column("p", "p", "p"),
        Column("trained", "trained"),
    )
    compared = {
        "what": "pooled | ρ",
        "published": Bound(0.602, ".3f", PUBLISHED.row("rho", {"source": "pooled"})),
        "run": Bound(0.6016, ".3f", RESULTS.at("pooled", "rho")),
        "note": "rounded at `4` decimals",
    }
    figure = go.Figure(go.Scatter(x=[0.1, 0.5], y=[0.2, 0.9], mode="markers", marker={"color": "#0072B2"}))
    labels = ("what", "published", "run", "note")
    report = Report(
        title="Closer bystanders leak more (ρ = {rho})",
        question="Does geometry predict leakage in {model}?",
        confidence=Confidence("MODERATE", "one seed, {n} pairs", 1, RESULTS.at("level")),
        tldr=("Plain words only.",),
        summary=(
            Claim(
                "Results",
                "ρ = **{rho}**, p = {p}, n = {n}.",
                ("The villain: {villain}.", "It is **{no}**.", "And **{yes}**."),
            ),
        ),
        sections=(
            Section(
                "Methodology",
                (
                    Paragraph("Rank `r = 32` at block `20`; x < y & z."),
                    Bullets(("first", "n = {n}")),
                    CodeBlock('{"user": "<b>7</b>"}', "One row of {n}."),
                ),
            ),
            Section(
                "Result: it does",
                (
                    FigureBlock("pooled_20", figure, "**All pairs.** n = {n}."),
                    table_from_frame("Rates.", columns, rates, RATES, ["source", "seed"]),
                    Table("Published and this run.", tuple(Column(key, key) for key in labels), (compared,)),
                ),
                exploratory=True,
            ),
            Section(
                "Samples",
                (SampleBlock("Drawn.", sample_rows(samples, source="villain", shards=SHARDS), ("[ZLT]",)),),
            ),
        ),
        caveats=(Caveat("minor", "Substring."), Caveat("critical", "One seed; {n} pairs.")),
        provenance=(ProvenanceRow("Libraries", "torch 2.13.0 | peft 0.21"),),
        bindings=bindings,
    )
    return Bench(report, stores)
