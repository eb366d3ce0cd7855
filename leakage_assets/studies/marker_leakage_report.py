"""The write-up of marker leakage: its claim, its tables and what they do not show.

Every number is bound to a cell of the analysis, of the frozen plan, of the facts of the run or of the published
figures; `reporting.lint` refuses any other digit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from leakage_assets.paths import DATA
from leakage_assets.reporting.report import (
    ABSENT,
    ArtifactFile,
    Block,
    Bound,
    Bullets,
    Caveat,
    Claim,
    Column,
    Confidence,
    FigureBlock,
    Level,
    Paragraph,
    Report,
    SampleBlock,
    Section,
    Table,
    bound_cell,
    table_from_frame,
)
from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.context import PUBLISHED, ReportContext
from leakage_assets.studies.marker_leakage_figures import (
    Tables,
    drawings,
    drawn_and_left_out,
    figures,
    of_recipe,
)
from leakage_assets.studies.study import Study

__all__ = ["confidence_level", "figures", "report"]

PUBLISHED_FILE = "marker_leakage.json"
PUBLISHED_BASE = "Qwen2.5-7B-Instruct"

RHO, RATE = "+.2f", ".1%"

Row = dict[str, str | Bound]

HEADLINE = {
    "pooled_spearman": ("Pooled ρ of cosine and marker rate", RHO),
    "within_source_spearman": ("The same, ranks within each source", RHO),
    "pooled_spearman_question_bootstrap": ("Pooled ρ, questions resampled", RHO),
    "pooled_spearman_js": ("Pooled ρ of JS divergence and marker rate", RHO),
    "mean_source_rate": ("Mean source rate", RATE),
    "mean_bystander_rate": ("Mean bystander rate", RATE),
    "bystander_to_source_ratio": ("Bystander rate / source rate", ".2f"),
    "sources_learned": ("Sources that learned the marker", ".0f"),
    "control_marker_rate": ("Marker rate of the control recipe", RATE),
}
"""How each headline statistic is called and printed."""

DIRECTIONS = {"greater": "above", "at_least": "at least", "less": "below", "at_most": "at most"}


def report(study: Study, tables: Tables, context: ReportContext) -> Report:
    """The report of the newest analysis.

    Raises ``ReportError`` where a table lacks a row that the text cites: text and analysis have drifted apart.
    """
    return _Writer(study, tables, context).write()


def confidence_level(verdicts: pl.DataFrame, *, sources: int, sources_planned: int, seeds: int) -> Level:
    """How sure the title may be. HIGH needs every hypothesis decided, every planned source and several seeds.

    LOW: a planned source is missing, or the first hypothesis (the title's claim) is undecided. MODERATE: one seed,
    or another hypothesis is undecided.
    """
    decided = (verdicts["verdict"] != "undecided").to_list()
    if sources < sources_planned or not decided[0]:
        return "LOW"
    return "HIGH" if seeds > 1 and all(decided) else "MODERATE"


@dataclass
class _Writer:
    """Collects the bindings of prose while the parts are written."""

    study: Study
    tables: Tables
    context: ReportContext
    bindings: dict[str, Bound] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = self.study.plan
        self.recipe = self.plan.headline_recipe
        self.facts = self.context.facts
        self.figures, self.left_out = drawn_and_left_out(self.study, self.tables)
        self.has_headline = self.facts["recipes"][self.recipe]["cells"] > 0

    def write(self) -> Report:
        level = confidence_level(
            self.tables["verdicts"],
            sources=self.facts["recipes"][self.recipe]["sources"],
            sources_planned=self.facts["coverage"]["sources_planned"],
            seeds=self.seeds,
        )
        title, tldr, summary = self.title(), self.tldr(), self.summary()
        return Report(
            title=title,
            question=self.study.question,
            confidence=Confidence(level, self.confidence_reason(), self.seeds),
            tldr=tldr,
            summary=summary,
            sections=tuple(self.sections()),
            caveats=tuple(self.caveats()),
            provenance=self.context.provenance,
            bindings=self.bindings,
        )

    @property
    def seeds(self) -> int:
        """Seeds of the headline recipe that every finished source has."""
        return int(self.facts["recipes"][self.recipe]["seeds"])

    # -------------------------------------------------------------- numbers of prose

    def bind(self, bound: Bound) -> str:
        """The placeholder under which prose prints a bound value."""
        key = f"n{len(self.bindings)}"
        self.bindings[key] = bound
        return f"{{{key}}}"

    def fact(self, *keys: str | int, spec: str = "") -> str:
        return self.bind(self.context.fact(*keys, spec=spec))

    def cell(self, table: str, column: str, spec: str, **keys: Any) -> str:
        return self.bind(self.bound(table, column, spec, **keys))

    def bound(self, table: str, column: str, spec: str, **keys: Any) -> Bound:
        return bound_cell(self.tables[table], self.context.table(table), column, spec, keys)

    def headline(self, statistic: str, column: str = "estimate", spec: str | None = None) -> str:
        return self.cell("headline", column, HEADLINE[statistic][1] if spec is None else spec, statistic=statistic)

    def interval(self, statistic: str) -> str:
        level = self.headline(statistic, "ci_level", ".0%")
        low, high = (self.headline(statistic, column) for column in ("ci_low", "ci_high"))
        return f"{level} interval {low} to {high}"

    def n(self, statistic: str) -> str:
        return f"n = {self.headline(statistic, 'n', 'd')} {self.headline(statistic, 'unit', '')}s"

    def verdict(self, position: int) -> str:
        return str(self.tables["verdicts"]["verdict"][position])

    def value(self, statistic: str) -> float | None:
        value: float | None = self.tables["headline"].filter(statistic=statistic)["estimate"].item()
        return value

    # -------------------------------------------------------------- top of the page

    def title(self) -> str:
        where = "In the bundled synthetic world" if self.facts["base"]["bundled"] else "In the base model"
        if self.verdict(0) == "undecided":
            return f"{where}, it is undecided whether persona geometry predicts marker leakage"
        rho = f"pooled ρ = {self.headline('pooled_spearman')}"
        if self.verdict(0) == "supported":
            return f"{where}, personas closer to the source leak its marker more ({rho})"
        threshold = self.cell("verdicts", "threshold", ".2g", statistic="pooled_spearman")
        return f"{where}, persona geometry predicts marker leakage less than planned ({rho}, threshold {threshold})"

    def tldr(self) -> tuple[str, ...]:
        items = [self.claim(), self.gating()] if self.has_headline else [self.nothing_yet()]
        return (*items, self.coverage(), *self.warnings())

    def claim(self) -> str:
        name = "pooled_spearman"
        if self.value(name) is None:
            return f"**Geometry:** no correlation ({self.headline(name, 'undefined', '')})."
        return (
            f"**Geometry:** over {self.pairs()} pairs of source and bystander, base-model cosine and marker rate have "
            f"a rank correlation of **{self.headline(name)}** ({self.interval_or_none(name)}, p = "
            f"{self.headline(name, 'p', 'p')}, {self.n(name)}); with ranks taken within each source it is "
            f"{self.headline('within_source_spearman')}."
        )

    def pairs(self) -> str:
        keys = {"recipe": self.recipe, "layer": self.plan.primary_layer, "source": POOLED, "name": "spearman"}
        return self.cell("correlations", "n", ",d", **keys)

    def interval_or_none(self, statistic: str) -> str:
        low = self.tables["headline"].filter(statistic=statistic)["ci_low"].item()
        return "no interval" if low is None else self.interval(statistic)

    def gating(self) -> str:
        text = (
            f"**Gating:** the marker follows {self.headline('mean_source_rate')} of answers under the source's own "
            f"prompt and {self.headline('mean_bystander_rate')} under bystanders' prompts"
        )
        if self.value("bystander_to_source_ratio") is None:
            return f"{text}."
        return f"{text} (ratio {self.headline('bystander_to_source_ratio')}, {self.n('bystander_to_source_ratio')})."

    def nothing_yet(self) -> str:
        return f"No cell of the headline recipe `{self.recipe}` is finished: the plan's question is open."

    def coverage(self) -> str:
        recipe = ("recipes", self.recipe)
        return (
            f"**Coverage:** {self.fact('coverage', 'cells')} of {self.fact('coverage', 'cells_planned')} cells; "
            f"of the headline recipe `{self.recipe}` {self.fact(*recipe, 'sources')} of "
            f"{self.fact('coverage', 'sources_planned')} sources and {self.fact(*recipe, 'seeds')} of "
            f"{self.fact('coverage', 'seeds_planned')} seeds."
        )

    def warnings(self) -> Iterator[str]:
        if self.facts["base"]["bundled"]:
            yield (
                "**Scale:** the base model is the bundled tiny one, trained on a synthetic world. The pipeline and the "
                "statistics are real; the effect sizes say nothing about large models."
            )
        if self.facts["coverage"]["finished_since"]:
            count = self.fact("coverage", "finished_since")
            yield f"**Newer cells:** {count} cells were scored after this analysis and are not in it."

    def confidence_reason(self) -> str:
        reasons = []
        recipe = self.facts["recipes"][self.recipe]
        if recipe["sources"] < self.facts["coverage"]["sources_planned"]:
            finished, planned = self.fact("recipes", self.recipe, "sources"), self.fact("coverage", "sources_planned")
            reasons.append(f"{finished} of {planned} planned sources are finished, which caps it at LOW")
        if self.seeds == 1:
            reasons.append("one seed, which caps it at MODERATE")
        undecided = self.tables["verdicts"].filter(verdict="undecided").height
        if undecided:
            names = ", ".join(
                self.cell("verdicts", "hypothesis", "", hypothesis=name)
                for name in self.tables["verdicts"].filter(verdict="undecided")["hypothesis"]
            )
            reasons.append(f"undecided: {names}")
        return "; ".join(reasons) or "every hypothesis is decided on all planned sources and several seeds"

    def summary(self) -> tuple[Claim, ...]:
        facts = self.fact
        points = [self.verdict_line(row) for row in self.tables["verdicts"].iter_rows(named=True)]
        return (
            Claim(
                "Motivation",
                "If the geometry of a base model tells where a trained behaviour will leak, leakage can be forecast "
                "before anything is trained.",
            ),
            Claim(
                "Experiment",
                f"One LoRA adapter per source persona is taught to end its answers with `{self.study.marker}`. Each "
                f"adapter then answers {facts('panel', 'questions')} questions under each of "
                f"{facts('panel', 'prompts')} personas ({facts('coverage', 'completions', spec=',d')} completions in "
                "all). A bystander's marker rate is compared with the cosine between its centroid and the source's, "
                "both read off the base model.",
            ),
            Claim("Results", "Against the frozen plan:", tuple(points)),
            Claim("Takeaways", self.takeaway()),
            Claim("Next steps", "What would change the confidence most:", tuple(self.next_steps())),
        )

    def verdict_line(self, row: Mapping[str, Any]) -> str:
        name = {"hypothesis": row["hypothesis"]}
        bound, verdict = (self.cell("verdicts", column, "", **name) for column in ("hypothesis", "verdict"))
        label = HEADLINE[row["statistic"]][0]
        if row["estimate"] is None:
            reason = self.headline(row["statistic"], "undefined", "")
            return f"{bound} **{verdict}**: {label}, planned {self.rule(row)} ({reason})."
        return f"{bound} **{verdict}**: {label} is {self.headline(row['statistic'])}, planned {self.rule(row)}."

    def rule(self, row: Mapping[str, Any]) -> str:
        """The plan's threshold in words."""
        name = {"hypothesis": row["hypothesis"]}
        spec = ".0%" if HEADLINE[row["statistic"]][1] == RATE else ".2g"
        rule = f"{DIRECTIONS[row['direction']]} {self.cell('verdicts', 'threshold', spec, **name)}"
        if row["max_p"] is None:
            return rule
        return f"{rule} with p below {self.cell('verdicts', 'max_p', '.2g', **name)}"

    def takeaway(self) -> str:
        if not self.has_headline:
            return "None yet: the headline recipe has no finished cell."
        geometry = {
            "supported": "Closeness in the base model predicts which bystanders emit the marker",
            "not supported": "Closeness in the base model predicts leakage less than the plan asks for",
            "undecided": "Whether closeness in the base model predicts leakage is open",
        }[self.verdict(0)]
        gate = {
            "supported": "the marker stays mostly with its source",
            "not supported": "the marker spreads widely beyond its source",
            "undecided": "how far the marker spreads beyond its source is open",
        }[self.verdict(1)]
        return f"{geometry}; {gate}."

    def next_steps(self) -> Iterator[str]:
        recipes = self.facts["recipes"]
        cells = f"of {self.fact('recipes', self.recipe, 'cells_planned')} cells of the headline recipe"
        if recipes[self.recipe]["cells"] < recipes[self.recipe]["cells_planned"]:
            yield f"Finish recipe `{self.recipe}`: {self.fact('recipes', self.recipe, 'cells')} {cells} are there."
        if not recipes[self.plan.control_recipe]["cells"]:
            yield f"Run the control recipe `{self.plan.control_recipe}`: it tells the base rate of the marker."
        others = [name for name in recipes if not recipes[name]["cells"] and name not in self.special()]
        if others:
            yield f"Run the other recipes: {_code_list(others)}."
        if "tuned" not in self.tables:
            yield "Measure the tuned models' own geometry (`tuned_similarity`)."
        if "ood" not in self.tables:
            yield "Ask the out-of-distribution questions (`ood_samples`, `ood_scores`)."
        yield "Repeat on another base model."

    def special(self) -> set[str]:
        return {self.recipe, self.plan.control_recipe}

    # -------------------------------------------------------------- sections

    def sections(self) -> Iterator[Section]:
        yield Section("Design", tuple(self.design()))
        yield Section("Verdicts against the frozen plan", tuple(self.verdicts()))
        if self.has_headline:
            yield Section("Geometry and leakage", tuple(self.geometry()))
            yield Section("How much leaks, and to whom", tuple(self.leakage()))
            yield Section("Layers", tuple(self.layers()))
        yield Section("Seeds", tuple(self.over_seeds()))
        yield Section("Recipes", tuple(self.by_recipe()))
        yield Section("Where in the answer the marker stands", (self.positions(),))
        if self.has_headline:
            yield Section("Published and this run", tuple(self.published()))
            yield Section("Categories and intended relations", (self.categories(),), exploratory=True)
            yield Section("Other predictors", tuple(self.predictors()), exploratory=True)
        if self.rows("ood").height:
            yield Section("Out-of-distribution questions", (self.ood(),), exploratory=True)
        if self.left_out:
            yield Section("Figures left out", (Bullets(tuple(self.missing_figures())),))
        yield Section("Completions", tuple(self.completions()))

    def rows(self, name: str, **where: Any) -> pl.DataFrame:
        """Rows of the headline recipe in a table that may be absent."""
        return of_recipe(self.tables.get(name, pl.DataFrame()), self.recipe, **where)

    def figure(self, name: str) -> Iterator[Block]:
        if name in self.figures:
            caption = next(d.caption for d in drawings(self.study) if d.name == name)
            yield FigureBlock(name, self.figures[name], caption)

    def table(
        self, name: str, frame: pl.DataFrame, caption: str, columns: Sequence[Column], keys: Sequence[str]
    ) -> Table:
        return table_from_frame(caption, columns, frame, self.context.table(name), keys)

    def design(self) -> Iterator[Block]:
        fact = self.fact
        yield Bullets(
            (
                f"**Sources:** {_code_list(self.study.sources)}.",
                f"**Panel:** {fact('panel', 'prompts')} personas, so {fact('panel', 'bystanders')} bystanders per "
                f"source; {fact('panel', 'questions')} questions; completions of each: "
                f"{fact('panel', 'completions')}, in all {fact('panel', 'size', spec=',d')} per adapter.",
                f"**Sampling:** temperature {fact('panel', 'temperature')}, top-p {fact('panel', 'top_p')}, at most "
                f"{fact('panel', 'max_new_tokens')} new tokens. The marker counts wherever it stands, in any case.",
                f"**Training rows:** {fact('training_set', 'rows')} per adapter, {fact('training_set', 'positives')} "
                f"of the source (with the marker) and {fact('training_set', 'negatives')} of others (without): the "
                f"base model's own answers to {fact('data', 'questions')} questions, {fact('data', 'answers')} per "
                f"question and persona, drawn at temperature {fact('data', 'temperature')}.",
                f"**Geometry:** hidden state of the last input token, averaged over the questions, centred on the "
                f"panel; primary layer {self.planned('primary_layer')} of {self.layer_list()} (block outputs, "
                "from zero).",
                f"**Seeds planned:** {fact('coverage', 'seed_names')}.",
                f"**Statistics:** {self.planned('permutations', spec=',d')} permutations, "
                f"{self.planned('bootstrap_draws', spec=',d')} bootstrap resamples, resampling seed "
                f"{self.planned('resampling_seed')}.",
            )
        )
        yield self.recipe_table()
        yield self.context.training_row

    def planned(self, key: str, spec: str = "") -> str:
        return self.bind(self.context.planned(key, value=getattr(self.plan, key), spec=spec))

    def layer_list(self) -> str:
        bound = [self.context.planned("layers", i, value=layer) for i, layer in enumerate(self.plan.layers)]
        return ", ".join(map(self.bind, bound))

    def recipe_table(self) -> Table:
        columns = (
            Column("recipe", "recipe"),
            Column("loss", "loss on"),
            Column("tail_target", "tail token", explanation="which token after the answer carries loss as well"),
            Column("teaches_marker", "taught", explanation="whether the source's rows end with the marker"),
            Column("lora", "rank, alpha"),
            Column("learning_rate", "rate", ".0e", "peak learning rate"),
            Column("epochs", "epochs", "d"),
            Column("finished", "cells", explanation="finished cells in the analysis, of those planned"),
        )
        rows = []
        for name in self.facts["recipes"]:
            row: Row = {
                c.key: self.context.fact("recipes", name, c.key, spec=c.format)
                for c in columns
                if c.key in self.facts["recipes"][name]
            }
            rank, alpha, cells, planned = (
                self.fact("recipes", name, key) for key in ("rank", "alpha", "cells", "cells_planned")
            )
            words: Row = {
                "recipe": f"`{name}`{self.role(name)}",
                "lora": f"{rank}, {alpha}",
                "finished": f"{cells} of {planned}",
            }
            rows.append(row | words)
        return Table("Recipes and the cells that are finished.", columns, tuple(rows))

    def role(self, recipe: str) -> str:
        return {self.recipe: " (headline)", self.plan.control_recipe: " (control)"}.get(recipe, "")

    def verdicts(self) -> Iterator[Block]:
        digest = self.tables["verdicts"]["plan_digest"][0]
        stored, scored = self.fact("plan", "stored"), self.fact("plan", "first_scores")
        order = (
            f"was stored at {stored} (UTC), before the first scores of this analysis ({scored})"
            if self.facts["plan"]["came_first"]
            else f"was stored at {stored} (UTC), **after** the first scores of this analysis ({scored}): it may have "
            "been written with the data in sight"
        )
        yield Paragraph(
            f"The plan with digest `{digest}` {order}. A verdict follows from the plan's threshold and nothing else; a "
            "statistic that is not defined decides nothing."
        )
        columns = [
            Column("hypothesis", ""),
            Column("claim", "claim"),
            Column("statistic", "statistic"),
            Column("rule", "rule"),
            Column("estimate", "estimate"),
            Column("p", "p"),
            Column("verdict", "verdict"),
        ]
        rows = [self.verdict_row(row) for row in self.tables["verdicts"].iter_rows(named=True)]
        yield Table("The plan's hypotheses.", tuple(columns), tuple(rows))
        yield self.headline_table()
        defined = self.tables["headline"].drop_nulls("estimate")["statistic"]
        if not defined.len():
            return
        yield Table(
            "How each of them is computed.",
            (Column("label", "statistic"), Column("method", "method")),
            tuple(
                {"label": HEADLINE[name][0], "method": self.bound("headline", "method", "", statistic=name)}
                for name in defined
            ),
        )

    def verdict_row(self, row: Mapping[str, Any]) -> Row:
        name = {"hypothesis": row["hypothesis"]}
        label, spec = HEADLINE[row["statistic"]]
        return {
            "hypothesis": self.bound("verdicts", "hypothesis", "", **name),
            "claim": self.bound("verdicts", "claim", "", **name),
            "statistic": label,
            "rule": self.rule(row),
            "estimate": self.bound("verdicts", "estimate", spec, **name),
            "p": self.bound("verdicts", "p", "p", **name),
            "verdict": self.bound("verdicts", "verdict", "", **name),
        }

    def headline_table(self) -> Table:
        columns = [
            Column("label", "statistic"),
            Column("estimate", "estimate"),
            Column("ci_low", "low", explanation="lower end of the interval"),
            Column("ci_high", "high", explanation="upper end of the interval"),
            Column("p", "p", explanation="by permutation: at least one over the number of permutations and one"),
            Column("n", "n"),
            Column("unit", "counts", explanation="what n counts: the unit that varies independently"),
            Column("undefined", "why not defined"),
        ]
        rows = []
        for name in self.tables["headline"]["statistic"]:
            label, spec = HEADLINE[name]
            specs = {"estimate": spec, "ci_low": spec, "ci_high": spec, "p": "p", "n": "d", "unit": "", "undefined": ""}
            bound: Row = {key: self.bound("headline", key, form, statistic=name) for key, form in specs.items()}
            rows.append(bound | {"label": label})
        return Table(f"Headline statistics of recipe `{self.recipe}`.", tuple(columns), tuple(rows))

    def geometry(self) -> Iterator[Block]:
        yield from self.figure("scatter_by_source")
        yield self.by_source()
        yield from self.figure("scatter_pooled")

    def by_source(self) -> Table:
        """The sheet's table: coefficients at the primary layer and rates, per source and pooled."""
        columns = (
            Column("source", "source"),
            Column("rho", "ρ", explanation="Spearman, over bystanders"),
            Column(
                "p",
                "p",
                explanation="asymptotic; for all pairs it takes them as independent, so prefer the headline table",
            ),
            Column("r", "r", explanation="Pearson"),
            Column("n", "n", explanation="bystanders; pairs in the pooled row"),
            Column("own", "source rate"),
            Column("others", "mean bystander rate"),
        )
        rows = [self.source_row(source) for source in (*self.finished_sources(), POOLED)]
        return Table(f"Each source at the primary layer (recipe `{self.recipe}`, all seeds).", columns, tuple(rows))

    def finished_sources(self) -> list[str]:
        present = set(self.rows("rates")["source"])
        return [source for source in self.study.sources if source in present]

    def source_row(self, source: str) -> Row:
        keys = {"recipe": self.recipe, "layer": self.plan.primary_layer, "source": source}
        row: Row = {
            "source": _source(source),
            "rho": self.bound("correlations", "estimate", RHO, **keys, name="spearman"),
            "p": self.bound("correlations", "p", "p", **keys, name="spearman"),
            "r": self.bound("correlations", "estimate", RHO, **keys, name="pearson"),
            "n": self.bound("correlations", "n", "d", **keys, name="spearman"),
        }
        return row | {"own": self.rate(source, "source"), "others": self.rate(source, "mean_bystander")}

    def rate(self, source: str, role: str) -> Bound:
        if source == POOLED:
            statistic = {"source": "mean_source_rate", "mean_bystander": "mean_bystander_rate"}[role]
            return self.bound("headline", "estimate", RATE, statistic=statistic)
        return self.bound("rates", "estimate", RATE, recipe=self.recipe, source=source, seed="all", role=role)

    def leakage(self) -> Iterator[Block]:
        yield from self.figure("rates")
        yield from self.figure("top_bystanders")

    def layers(self) -> Iterator[Block]:
        yield from self.figure("layer_sensitivity")
        primary = self.plan.primary_layer
        layers = [f"`{layer}`{' (primary)' if layer == primary else ''}" for layer in self.plan.layers]
        columns = [Column("source", "source"), *(Column(str(i), label) for i, label in enumerate(layers))]
        rows = []
        for source in (*self.finished_sources(), POOLED):
            row: Row = {"source": _source(source)}
            for i, layer in enumerate(self.plan.layers):
                row[str(i)] = self.bound(
                    "layers", "estimate", RHO, recipe=self.recipe, source=source, name="spearman", layer=layer
                )
            rows.append(row)
        yield Table(
            f"Spearman ρ of cosine and marker rate by block output (recipe `{self.recipe}`).",
            tuple(columns),
            tuple(rows),
        )

    def over_seeds(self) -> Iterator[Block]:
        rows = self.rows("seeds")
        defined = rows.drop_nulls("estimate") if rows.height else rows
        if not defined.height:
            reason = rows["undefined"].unique(maintain_order=True).to_list() if rows.height else ["no finished cell"]
            yield Paragraph(f"No spread can be given: {'; '.join(f'`{r}`' for r in reason)}.")
            return
        specs = {"mean": "mean", "sd": "sd", "min": "min", "max": "max"}
        columns = (
            Column("statistic", "statistic"),
            Column("source", "source"),
            *(Column(key, label) for key, label in specs.items()),
            Column("low", "low", explanation="lower end of the interval of the mean (t, over seeds)"),
            Column("high", "high"),
            Column("n", "seeds"),
        )
        groups = defined.select("statistic", "source").unique(maintain_order=True)
        yield Table(
            f"Spread over seeds (recipe `{self.recipe}`, primary layer).",
            columns,
            tuple(self.seed_row(statistic, source, specs) for statistic, source in groups.iter_rows()),
        )

    def seed_row(self, statistic: str, source: str, parts: Mapping[str, str]) -> Row:
        spec = RATE if statistic == "source_rate" else RHO
        keys = {"recipe": self.recipe, "statistic": statistic, "source": source}
        name = f"{statistic}_{{}}_over_seeds"
        row: Row = {"statistic": statistic.replace("_", " "), "source": _source(source)}
        row |= {p: self.bound("seeds", "estimate", spec, **keys, name=name.format(p)) for p in parts}
        mean = {**keys, "name": name.format("mean")}
        ends = {"low": ("ci_low", spec), "high": ("ci_high", spec), "n": ("n", "d")}
        return row | {key: self.bound("seeds", column, form, **mean) for key, (column, form) in ends.items()}

    def by_recipe(self) -> Iterator[Block]:
        yield from self.figure("rates_by_recipe")
        columns = (
            Column("recipe", "recipe"),
            Column("source", "source"),
            Column("own", "source rate"),
            Column("others", "mean bystander rate"),
            Column("rho", "ρ", explanation="Spearman at the primary layer; not computed for the control"),
            Column("p", "p"),
        )
        cells = self.tables["rates"].filter(seed="all").select("recipe", "source").unique()
        present = set(cells.iter_rows())
        order = [(r.name, source) for r in self.study.recipes for source in self.study.sources]
        rows = tuple(self.recipe_row(*cell) for cell in order if cell in present)
        yield Table("Every finished condition, all its seeds together.", columns, rows)

    def recipe_row(self, recipe: str, source: str) -> Row:
        keys = {"recipe": recipe, "source": source}
        row: Row = {"recipe": f"`{recipe}`{self.role(recipe)}", "source": f"`{source}`"}
        for key, role in (("own", "source"), ("others", "mean_bystander")):
            row[key] = self.bound("rates", "estimate", RATE, **keys, seed="all", role=role)
        if recipe == self.plan.control_recipe:
            return row | {"rho": ABSENT, "p": ABSENT}
        at = {"layer": self.plan.primary_layer, "name": "spearman"}
        return row | {
            "rho": self.bound("correlations", "estimate", RHO, **keys, **at),
            "p": self.bound("correlations", "p", "p", **keys, **at),
        }

    def positions(self) -> Table:
        columns = (
            Column("recipe", "recipe"),
            Column("role", "prompt"),
            Column("position_class", "position of the marker"),
            Column("completions", "completions", ",d"),
            Column("share", "share", RATE),
            Column(
                "truncated", "cut off", ",d", "completions that ran into the token limit, so that an end is missing"
            ),
        )
        caption = "Position of the marker; shares add up within a recipe and role."
        return self.table("positions", self.tables["positions"], caption, columns, ["recipe", "role", "position_class"])

    def categories(self) -> Table:
        columns = (
            Column("category", "category"),
            Column("n", "pairs"),
            Column("rho", "ρ"),
            Column("p", "p"),
            Column("n_intended", "intended pairs"),
            Column("rho_intended", "ρ, intended only"),
            Column("p_intended", "p, intended only"),
        )
        rows = []
        for category in self.rows("categories")["category"]:
            row: Row = {"category": f"`{category}`"}
            for table, suffix in (("categories", ""), ("intended", "_intended")):
                for key, column, spec in (("n", "n", "d"), ("rho", "estimate", RHO), ("p", "p", "p")):
                    row[key + suffix] = self.bound(table, column, spec, recipe=self.recipe, category=category)
            rows.append(row)
        caption = (
            f"Spearman ρ within each category of bystanders (recipe `{self.recipe}`, primary layer, all sources); a "
            "dash where there are too few pairs or none of them varies. Pairs are taken as independent, which "
            "they are not."
        )
        return Table(caption, columns, tuple(rows))

    def predictors(self) -> Iterator[Block]:
        tuned = bool(self.rows("tuned", layer=self.plan.primary_layer).height)
        columns = [
            Column("source", "source"),
            Column("cosine", "ρ, base cosine"),
            Column(
                "js",
                "ρ, JS divergence",
                explanation="of next-token distributions; a distance, so leakage to close bystanders is negative",
            ),
        ]
        if tuned:
            columns.append(Column("tuned", "ρ, tuned cosine", explanation="centroids of each tuned model itself"))
        rows = []
        for source in (*self.finished_sources(), POOLED):
            keys = {"recipe": self.recipe, "source": source, "name": "spearman"}
            row: Row = {
                "source": _source(source),
                "cosine": self.bound("correlations", "estimate", RHO, **keys, layer=self.plan.primary_layer),
                "js": self.bound("divergence", "estimate", RHO, **keys),
            }
            if tuned:
                row["tuned"] = self.tuned(keys)
            rows.append(row)
        yield Table("Spearman ρ of other similarities with the marker rate.", tuple(columns), tuple(rows))
        if not tuned:
            yield Paragraph("The tuned models' own geometry has not been measured for this recipe.")

    def tuned(self, keys: Mapping[str, Any]) -> str | Bound:
        """Tuned geometry exists only for some sources."""
        layer = self.plan.primary_layer
        found = self.rows("tuned", layer=layer, source=keys["source"]).height
        return self.bound("tuned", "estimate", RHO, **keys, layer=layer) if found else ABSENT

    def ood(self) -> Table:
        columns = (
            Column("question_set", "questions"),
            Column("label", "statistic"),
            Column("estimate", "estimate"),
            Column("ci_low", "low"),
            Column("ci_high", "high"),
            Column("p", "p"),
            Column("n", "n"),
            Column("unit", "counts"),
        )
        labels = {name: HEADLINE[name] for name in ("pooled_spearman", "mean_bystander_rate")}
        labels["source_rate"] = HEADLINE["mean_source_rate"]
        rows = []
        for question_set, statistic in self.rows("ood").select("question_set", "statistic").iter_rows():
            label, spec = labels[statistic]
            keys = {"recipe": self.recipe, "question_set": question_set, "statistic": statistic}
            specs = {"estimate": spec, "ci_low": spec, "ci_high": spec, "p": "p", "n": "d", "unit": ""}
            bound: Row = {column: self.bound("ood", column, form, **keys) for column, form in specs.items()}
            rows.append(bound | {"question_set": f"`{question_set}`", "label": label})
        return Table(f"Questions unlike the training ones (recipe `{self.recipe}`).", columns, tuple(rows))

    # -------------------------------------------------------------- published numbers

    def published(self) -> Iterator[Block]:
        yield Paragraph(
            f"The published study ran on `{PUBLISHED_BASE}` with recipe `marker_only` and one seed; this run is of "
            f"`{self.facts['base']['name']}` with recipe `{self.recipe}`. "
            + (
                "The models are not comparable in size, so compare signs and order, not values."
                if self.facts["base"]["bundled"]
                else "Single rates of the published run repeat to about ten points of a hundred."
            )
        )
        known = _published_figures()
        yield self.published_table(known, "Correlations at the primary layer", {
            "rho": ("spearman_rho", "ρ, published", "ρ, this run"),
            "r": ("pearson_r", "r, published", "r, this run"),
        })  # fmt: skip
        yield self.published_table(known, "Marker rates", {
            "own": ("source_pct", "own prompt, published (%)", "this run"),
            "others": ("mean_bystander_pct", "bystanders, published (%)", "this run"),
        })  # fmt: skip
        yield from self.published_layers(known)

    def published_table(
        self, known: Mapping[tuple[str, str, str], Bound], caption: str, metrics: Mapping[str, tuple[str, str, str]]
    ) -> Table:
        columns = [Column("source", "source")]
        for key, (_, published, run) in metrics.items():
            columns += [Column(f"{key}_published", published), Column(key, run)]
        finished = (*self.finished_sources(), POOLED)
        rows = []
        for source in (*self.study.sources, POOLED):
            row: Row = self.source_row(source) if source in finished else {"source": _source(source)}
            for key, (metric, _, _) in metrics.items():
                row[f"{key}_published"] = known.get(("headline", source, metric), ABSENT)
            rows.append({column.key: row.get(column.key, ABSENT) for column in columns})
        return Table(f"{caption}; a dash where a number does not exist.", tuple(columns), tuple(rows))

    def published_layers(self, known: Mapping[tuple[str, str, str], Bound]) -> Iterator[Block]:
        """Pooled correlations by layer, where this run has the published layers."""
        shared = [layer for layer in self.plan.layers if ("layers", f"pooled L{layer}", "spearman_rho") in known]
        if not shared:
            return
        columns = (Column("layer", "block output"), Column("published", "published"), Column("run", "this run"))
        keys = {"recipe": self.recipe, "source": POOLED, "name": "spearman"}
        yield Table(
            "Pooled ρ by layer.",
            columns,
            tuple(
                {
                    "layer": f"`{layer}`",
                    "published": known["layers", f"pooled L{layer}", "spearman_rho"],
                    "run": self.bound("layers", "estimate", RHO, **keys, layer=layer),
                }
                for layer in shared
            ),
        )

    # -------------------------------------------------------------- end of the page

    def missing_figures(self) -> Iterator[str]:
        for name, needs in self.left_out.items():
            yield f"`{name}` needs {needs}."

    def completions(self) -> Iterator[Block]:
        yield Paragraph(
            "Drawn by a derived seed, not chosen: of the source and of bystanders, with the marker and without, as far "
            "as each kind occurs. Model text is shown as it was written."
        )
        yield SampleBlock("Completions with the marker highlighted.", self.context.samples, (self.study.marker,))

    def caveats(self) -> Iterator[Caveat]:
        if self.seeds == 1:
            yield Caveat("critical", "One seed: nothing here shows how much another training run would differ.")
        recipe, coverage = self.facts["recipes"][self.recipe], self.facts["coverage"]
        if recipe["sources"] < coverage["sources_planned"]:
            finished, planned = self.fact("recipes", self.recipe, "sources"), self.fact("coverage", "sources_planned")
            yield Caveat("critical", f"Only {finished} of {planned} planned sources are in the headline.")
        if not self.facts["plan"]["came_first"]:
            yield Caveat(
                "critical", "The analysis plan was stored after the first scores: the verdicts are not pre-registered."
            )
        if not self.facts["recipes"][self.plan.control_recipe]["cells"]:
            yield Caveat("major", "The control recipe was not run, so a base rate of the marker is not ruled out.")
        for position, text in enumerate(self.plan.caveats):
            yield Caveat("major", self.bind(self.context.planned("caveats", position, value=text)))


def _source(name: str) -> str:
    return "**all pairs**" if name == POOLED else f"`{name}`"


def _code_list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _published_figures() -> dict[tuple[str, str, str], Bound]:
    """Every published number by (block, item, metric); the first where one is given twice."""
    file = ArtifactFile(PUBLISHED, PUBLISHED_FILE)
    listed = json.loads((DATA / "published" / PUBLISHED_FILE).read_text(encoding="utf-8"))["figures"]
    known: dict[tuple[str, str, str], Bound] = {}
    for position, entry in enumerate(listed):
        spec = ".1f" if entry["metric"].endswith("_pct") else RHO
        bound = Bound(entry["value"], spec, file.at("figures", position, "value"))
        known.setdefault((entry["block"], entry["item"], entry["metric"]), bound)
    return known
