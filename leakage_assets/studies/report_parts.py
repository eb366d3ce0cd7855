"""What the reports of all studies share: how sure they are, what they do not show, recipes, completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, get_args

import polars as pl

from leakage_assets.paths import DATA
from leakage_assets.reporting.report import (
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
    table_from_frame,
)
from leakage_assets.studies.citations import RATE, RHO, Citations, Row, code_list
from leakage_assets.studies.context import PUBLISHED, ReportContext
from leakage_assets.studies.drawings import Drawing, S, Tables, draw_all
from leakage_assets.studies.report_verdicts import plan_changed, rule_in_words

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from leakage_assets.studies.study import Study


@dataclass(frozen=True)
class WriteUp(Generic[S]):
    """How a study's figures and report come about; each part of the report is written by a function.

    ``subject``: what its figures are drawn for (the study or its plan). ``title`` is what was found, without where, and
    ``tldr`` what the headline recipe shows, asked for only where a cell of it is finished. ``cap``: what the study
    itself holds against more than a level of confidence, and why. ``titled``: the hypothesis that the title is about,
    where that is not the first. ``caveats``: what stands before those of the plan.
    """

    subject: Callable[[Study], S]
    drawings: Callable[[S], Sequence[Drawing[S]]]
    labels: Mapping[str, tuple[str, str]]
    title: Callable[[Citations], str]
    tldr: Callable[[Citations], Iterable[str]]
    summary: Callable[[Citations], tuple[Claim, ...]]
    sections: Callable[[Citations], Iterator[Section]]
    cap: Callable[[Citations], tuple[Level, str] | None] = lambda _: None
    titled: str | None = None
    caveats: Callable[[Citations], Iterable[Caveat]] = lambda _: ()

    def figures(self, study: Study, tables: Tables) -> dict[str, go.Figure]:
        """Every figure that the finished cells allow, by name."""
        return draw_all(self.drawings, self.subject(study), tables)[0]

    def report(self, study: Study, tables: Tables, context: ReportContext) -> Report:
        """The report of the newest analysis; confidence and caveats follow from the verdicts and the facts.

        Raises ``ReportError`` where a table lacks a row that the text cites: text and analysis have drifted apart.
        """
        subject = self.subject(study)
        drawn, left_out = draw_all(self.drawings, subject, tables)
        captions = {d.name: d.caption for d in self.drawings(subject)}
        figures = {name: FigureBlock(name, figure, captions[name]) for name, figure in drawn.items()}
        cite = Citations(study, tables, context, figures, left_out, self.labels)
        level, reason = _confidence(cite, self.cap(cite), self.titled)
        where = "In the bundled synthetic world" if cite.facts["base"]["bundled"] else "In the base model"
        # Placeholders are numbered as they are bound, so in this order.
        heading, short, claims = self.title(cite), self._short(cite), self.summary(cite)
        return Report(
            title=f"{where}, {heading}",
            question=study.question,
            confidence=Confidence(level, reason, cite.seeds),
            tldr=short,
            summary=claims,
            sections=tuple(self.sections(cite)),
            caveats=tuple(_caveats(cite, self.caveats(cite))),
            provenance=context.provenance,
            bindings=cite.bindings,
        )

    def _short(self, cite: Citations) -> tuple[str, ...]:
        nothing = f"No cell of the headline recipe `{cite.recipe}` is finished: the plan's question is open."
        return (*(self.tldr(cite) if cite.has_headline else [nothing]), _coverage(cite), *_warnings(cite))


# ------------------------------------------------------------------ how sure, and what is not shown


def confidence_level(
    verdicts: pl.DataFrame,
    *,
    sources: int,
    sources_planned: int,
    seeds: int,
    excluded: bool = False,
    plan_changes: int = 0,
    trials: bool = False,
    plan_first: bool = True,
    titled: str | None = None,
) -> Level:
    """How sure the title may be. HIGH needs evidence for or against its claim, the hypothesis ``titled`` (the first
    where None): supported, or ``excluded`` (its interval leaves the planned threshold out), and every hypothesis
    decided, every planned source, several seeds, and a plan that was stored before the first scores (``plan_first``),
    never changed, and not chosen on ``trials``.

    LOW: a planned source is missing, or that hypothesis is undecided. MODERATE: one seed, a plan that was changed after
    it was first stored or whose settings were chosen on trials of the study, another hypothesis is undecided, or that
    one is neither supported nor excluded: not to have found an effect is no evidence of none.
    """
    found = _of_title(verdicts, titled)["verdict"]
    if sources < sources_planned or found == "undecided":
        return "LOW"
    decided = (verdicts["verdict"] != "undecided").all()
    shown = found == "supported" or excluded
    planned = plan_first and not plan_changes and not trials
    return "HIGH" if seeds > 1 and planned and decided and shown else "MODERATE"


def _of_title(verdicts: pl.DataFrame, titled: str | None) -> dict[str, Any]:
    """The row of the hypothesis that a title is about."""
    return (verdicts if titled is None else verdicts.filter(hypothesis=titled)).row(0, named=True)


def threshold_excluded(direction: str, threshold: float, low: float | None, high: float | None) -> bool:
    """Whether an interval leaves out every value that a hypothesis would be supported by."""
    if low is None or high is None:
        return False
    return high < threshold if direction in ("greater", "at_least") else low > threshold


def _title_is_excluded(cite: Citations, titled: str | None) -> bool:
    claim = _of_title(cite.tables["verdicts"], titled)
    found = cite.tables["headline"].filter(statistic=claim["statistic"]).row(0, named=True)
    return threshold_excluded(claim["direction"], claim["threshold"], found["ci_low"], found["ci_high"])


def _confidence(cite: Citations, cap: tuple[Level, str] | None, titled: str | None) -> tuple[Level, str]:
    """The level that the verdicts and facts allow, capped by what the study holds against more, and why."""
    level = confidence_level(
        cite.tables["verdicts"],
        sources=cite.facts["recipes"][cite.recipe]["sources"],
        sources_planned=cite.facts["coverage"]["sources_planned"],
        seeds=cite.seeds,
        excluded=_title_is_excluded(cite, titled),
        plan_changes=cite.facts["plan"]["changes"],
        trials=cite.plan.chosen_on_trials,
        plan_first=cite.facts["plan"]["came_first"],
        titled=titled,
    )
    reason = _confidence_reason(cite, titled)
    if cap is not None:
        level = max(level, cap[0], key=get_args(Level).index)
        reason = f"{reason}; {cap[1]}" if reason else cap[1]
    return level, reason or DECIDED


DECIDED = (
    "the title's claim is shown or excluded, and every hypothesis decided, on all planned sources and several seeds"
)
NOT_EXCLUDED = "the title's claim is not supported, but not excluded by its interval either, which caps it at MODERATE"


def _confidence_reason(cite: Citations, titled: str | None) -> str:
    reasons = []
    recipe = cite.facts["recipes"][cite.recipe]
    if recipe["sources"] < cite.facts["coverage"]["sources_planned"]:
        finished, planned = cite.fact("recipes", cite.recipe, "sources"), cite.fact("coverage", "sources_planned")
        reasons.append(f"{finished} of {planned} planned sources are finished, which caps it at LOW")
    if cite.seeds == 1:
        reasons.append("one seed, which caps it at MODERATE")
    if not cite.facts["plan"]["came_first"]:
        reasons.append("the plan was stored after the first scores, which caps it at MODERATE")
    if cite.facts["plan"]["changes"]:
        reasons.append("the plan was changed, which caps it at MODERATE")
    if cite.plan.chosen_on_trials:
        reasons.append("settings were chosen on trials of this study, which caps it at MODERATE")
    found = _of_title(cite.tables["verdicts"], titled)["verdict"]
    if found == "not supported" and not _title_is_excluded(cite, titled):
        reasons.append(NOT_EXCLUDED)
    undecided = cite.tables["verdicts"].filter(verdict="undecided").height
    if undecided:
        names = ", ".join(
            cite.cell("verdicts", "hypothesis", "", hypothesis=name)
            for name in cite.tables["verdicts"].filter(verdict="undecided")["hypothesis"]
        )
        reasons.append(f"undecided: {names}")
    return "; ".join(reasons)


def _caveats(cite: Citations, own: Iterable[Caveat]) -> Iterator[Caveat]:
    if cite.seeds == 1:
        yield Caveat("critical", "One seed: nothing here shows how much another training run would differ.")
    recipe, coverage = cite.facts["recipes"][cite.recipe], cite.facts["coverage"]
    if recipe["sources"] < coverage["sources_planned"]:
        finished, planned = cite.fact("recipes", cite.recipe, "sources"), cite.fact("coverage", "sources_planned")
        yield Caveat("critical", f"Only {finished} of {planned} planned sources are in the headline.")
    if not cite.facts["plan"]["came_first"]:
        yield Caveat(
            "critical", "The analysis plan was stored after the first scores: the verdicts are not pre-registered."
        )
    if cite.facts["plan"]["changes"]:
        yield Caveat("major" if cite.facts["plan"]["came_first"] else "critical", plan_changed(cite))
    if not cite.facts["recipes"][cite.plan.control_recipe]["cells"]:
        yield Caveat("major", f"The control recipe was not run, so a {cite.study.control_tells} is not ruled out.")
    yield from own
    for position, text in enumerate(cite.plan.caveats):
        yield Caveat("major", cite.bind(cite.context.planned("caveats", position, value=text)))


# ------------------------------------------------------------------ the top


def _coverage(cite: Citations) -> str:
    recipe = ("recipes", cite.recipe)
    return (
        f"**Coverage:** {cite.fact('coverage', 'cells')} of {cite.fact('coverage', 'cells_planned')} cells; "
        f"of the headline recipe `{cite.recipe}` {cite.fact(*recipe, 'sources')} of "
        f"{cite.fact('coverage', 'sources_planned')} sources and {cite.fact(*recipe, 'seeds')} of "
        f"{cite.fact('coverage', 'seeds_planned')} seeds."
    )


def _warnings(cite: Citations) -> Iterator[str]:
    if cite.facts["base"]["bundled"]:
        yield (
            "**Scale:** the base model is the bundled tiny one, trained on a synthetic world. The pipeline and the "
            "statistics are real; the effect sizes say nothing about large models."
        )


def verdict_line(cite: Citations, row: Mapping[str, Any]) -> str:
    """A hypothesis with its verdict, and what was planned beside what was found."""
    name = {"hypothesis": row["hypothesis"]}
    bound, verdict = (cite.cell("verdicts", column, "", **name) for column in ("hypothesis", "verdict"))
    label = cite.labels[row["statistic"]][0]
    if row["estimate"] is None:
        reason = cite.headline(row["statistic"], "undefined", "")
        return f"{bound} **{verdict}**: {label}, planned {rule_in_words(cite, row)} ({reason})."
    return f"{bound} **{verdict}**: {label} is {cite.headline(row['statistic'])}, planned {rule_in_words(cite, row)}."


def summary_claims(
    cite: Citations,
    *,
    motivation: str,
    experiment: str,
    takeaways: Sequence[tuple[str, Mapping[str, str]]],
    next_steps: Iterable[str],
) -> tuple[Claim, ...]:
    """The summary in five claims.

    Args:
        takeaways: names of hypotheses, and the words for each verdict on them.
        next_steps: the study's own, between the cells to finish and another base model.
    """
    results = tuple(verdict_line(cite, row) for row in cite.tables["verdicts"].iter_rows(named=True))
    takeaway = "None yet: the headline recipe has no finished cell."
    if cite.has_headline:
        takeaway = f"{'; '.join(words[verdict(cite, name)] for name, words in takeaways)}."
    steps = (*_cells_to_finish(cite), *next_steps, "Repeat on another base model.")
    return (
        Claim("Motivation", motivation),
        Claim("Experiment", experiment),
        Claim("Results", "Against the frozen plan:", results),
        Claim("Takeaways", takeaway),
        Claim("Next steps", "What would change the confidence most:", steps),
    )


def _cells_to_finish(cite: Citations) -> Iterator[str]:
    """Which recipes are not finished."""
    recipes = cite.facts["recipes"]
    cells = f"of {cite.fact('recipes', cite.recipe, 'cells_planned')} cells of the headline recipe"
    if recipes[cite.recipe]["cells"] < recipes[cite.recipe]["cells_planned"]:
        yield f"Finish recipe `{cite.recipe}`: {cite.fact('recipes', cite.recipe, 'cells')} {cells} are there."
    if not recipes[cite.plan.control_recipe]["cells"]:
        yield f"Run the control recipe `{cite.plan.control_recipe}`: it tells the {cite.study.control_tells}."
    special = {cite.recipe, cite.plan.control_recipe}
    others = [name for name in recipes if not recipes[name]["cells"] and name not in special]
    if others:
        yield f"Run the other recipes: {code_list(others)}."


def interval_or_none(cite: Citations, statistic: str) -> str:
    if cite.tables["headline"].filter(statistic=statistic)["ci_low"].item() is None:
        return "no interval"
    level = cite.headline(statistic, "ci_level", ".0%")
    low, high = (cite.headline(statistic, column) for column in ("ci_low", "ci_high"))
    return f"{level} interval {low} to {high}"


def sample_size(cite: Citations, statistic: str) -> str:
    return f"n = {cite.headline(statistic, 'n', 'd')} {cite.headline(statistic, 'unit', '')}s"


def value(cite: Citations, statistic: str) -> float | None:
    """A headline estimate, to decide on words."""
    found: float | None = cite.tables["headline"].filter(statistic=statistic)["estimate"].item()
    return found


def verdict(cite: Citations, hypothesis: str) -> str:
    """The verdict on a hypothesis of the plan, to decide on words."""
    return str(cite.tables["verdicts"].filter(hypothesis=hypothesis)["verdict"].item())


# ------------------------------------------------------------------ sections


P, N, UNIT = Column("p", "p", "p"), Column("n", "n", "d"), Column("unit", "counts")
WHY = Column("undefined", "why not defined")


def sampling(cite: Citations) -> str:
    """How the panel of a study with one marker is sampled and read."""
    fact = cite.fact
    return (
        f"**Sampling:** temperature {fact('panel', 'temperature')}, top-p {fact('panel', 'top_p')}, at most "
        f"{fact('panel', 'max_new_tokens')} new tokens. The marker counts wherever it stands, in any case."
    )


def estimate_columns(label: str, spec: str, interval: str = "", *, explanation: str = "") -> tuple[Column, ...]:
    """An estimate and the ends of its interval, printed alike; ``interval`` says what it is over."""
    ends = (Column("ci_low", "low", spec, interval), Column("ci_high", "high", spec))
    return (Column("estimate", label, spec, explanation), *ends)


def layer_list(cite: Citations) -> str:
    bound = [cite.context.planned("layers", i, value=layer) for i, layer in enumerate(cite.plan.layers)]
    return ", ".join(map(cite.bind, bound))


def rows_of_table(
    cite: Citations, name: str, caption: str, columns: Sequence[Column], keys: Sequence[str], **where: str
) -> Iterator[Table]:
    """A table of the analysis, or some of its rows, every cell bound; nothing where it has no rows."""
    rows = cite.tables[name]
    if rows.height and (rows := rows.filter(**where) if where else rows).height:
        yield table_of_rows(cite, name, rows, caption, columns, keys)


def rows_or_reason(
    cite: Citations, name: str, caption: str, columns: Sequence[Column], keys: Sequence[str], **where: str
) -> Iterator[Block]:
    """As ``rows_of_table``, and one line where no row of it is defined (see ``unless_undefined``)."""
    rows = cite.tables[name]
    shown = rows.filter(**where) if where and rows.height else rows
    for table in rows_of_table(cite, name, caption, columns, keys, **where):
        yield unless_undefined(table, shown)


def unless_undefined(table: Table, rows: pl.DataFrame) -> Block:
    """A table of these rows, or, where each of them has only a reason (``undefined``), its caption and the reasons."""
    if not rows.height or rows["undefined"].null_count():
        return table
    reasons = "; ".join(f"`{reason}`" for reason in rows["undefined"].unique(maintain_order=True))
    return Paragraph(f"{table.caption} Not defined: {reasons}.")


def table_of_rows(
    cite: Citations,
    name: str,
    rows: pl.DataFrame,
    caption: str,
    columns: Sequence[Column],
    keys: Sequence[str],
    words: Mapping[str, Callable[[Any], str]] | None = None,
) -> Table:
    """Rows of a table of the analysis that were chosen from it, every cell bound.

    ``words`` say how the values of columns are called; a cell of such a column is bound to nothing.
    """
    table = table_from_frame(caption, columns, rows, cite.context.table(name), keys)
    called = {column.key: words[column.key] for column in columns if words and column.key in words}
    said = ({key: call(row[key]) for key, call in called.items()} for row in rows.iter_rows(named=True))
    return replace(table, rows=tuple({**bound, **plain} for bound, plain in zip(table.rows, said, strict=True)))


def recipe_table(cite: Citations) -> Table:
    columns = (
        Column("recipe", "recipe"),
        Column("loss", "loss on"),
        Column("tail_target", "tail token", explanation="which token after the answer carries loss as well"),
        Column("teaches_marker", "taught", explanation="whether the source's rows end with the marker"),
        Column("lora", "rank, alpha"),
        Column("learning_rate", "rate", ".1e", "peak learning rate"),
        Column("epochs", "epochs", "d"),
        Column("finished", "cells", explanation="finished cells in the analysis, of those planned"),
    )
    rows = []
    for name in cite.facts["recipes"]:
        row: Row = {
            c.key: cite.context.fact("recipes", name, c.key, spec=c.format)
            for c in columns
            if c.key in cite.facts["recipes"][name]
        }
        rank, alpha, cells, planned = (
            cite.fact("recipes", name, key) for key in ("rank", "alpha", "cells", "cells_planned")
        )
        words: Row = {
            "recipe": f"`{name}`{cite.role(name)}",
            "lora": f"{rank}, {alpha}",
            "finished": f"{cells} of {planned}",
        }
        rows.append(row | words)
    return Table("Recipes and the cells that are finished.", columns, tuple(rows))


def over_seeds(cite: Citations, source_name: Callable[[str], str]) -> Iterator[Block]:
    """Mean, spread and interval over seeds of the table ``seeds`` (recipe, statistic, source, and an estimate)."""
    rows = cite.rows("seeds")
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
        f"Spread over seeds (recipe `{cite.recipe}`, primary layer).",
        columns,
        tuple(
            _seed_row(cite, statistic, source, source_name(source), specs) for statistic, source in groups.iter_rows()
        ),
    )
    without = rows.filter(pl.col("estimate").is_null()).select("statistic", "source", "undefined")
    for statistic, source, reason in without.unique(maintain_order=True).iter_rows():
        yield Paragraph(f"No spread of {statistic.replace('_', ' ')} for {source_name(source)}: `{reason}`.")


def _seed_row(cite: Citations, statistic: str, source: str, label: str, parts: Mapping[str, str]) -> Row:
    spec = RATE if statistic.endswith("_rate") else RHO
    keys = {"recipe": cite.recipe, "statistic": statistic, "source": source}
    name = f"{statistic}_{{}}_over_seeds"
    row: Row = {"statistic": statistic.replace("_", " "), "source": label}
    row |= {p: cite.bound("seeds", "estimate", spec, **keys, name=name.format(p)) for p in parts}
    mean = {**keys, "name": name.format("mean")}
    ends = {"low": ("ci_low", spec), "high": ("ci_high", spec), "n": ("n", "d")}
    return row | {key: cite.bound("seeds", column, form, **mean) for key, (column, form) in ends.items()}


def published_elsewhere(cite: Citations, ran: str, otherwise: str, *, here: str = "") -> Paragraph:
    """What the published study ``ran`` on beside the base of this run; ``otherwise`` says what else differs where the
    two bases can be compared in size.
    """
    bundled = "The models are not comparable in size, so compare signs and order, not values."
    base = cite.facts["base"]
    return Paragraph(f"{ran}; this run is of `{base['name']}`{here}. {bundled if base['bundled'] else otherwise}")


def published_figures(file: str) -> dict[tuple[str, str, str], Bound]:
    """Every typed-in number of a study by (block, item, metric); the first where one is given twice."""
    store = ArtifactFile(PUBLISHED, file)
    listed = json.loads((DATA / "published" / file).read_text(encoding="utf-8"))["figures"]
    known: dict[tuple[str, str, str], Bound] = {}
    for position, entry in enumerate(listed):
        spec = ".1f" if entry["metric"].endswith("_pct") else RHO
        bound = Bound(entry["value"], spec, store.at("figures", position, "value"))
        known.setdefault((entry["block"], entry["item"], entry["metric"]), bound)
    return known


ONE_MARKER_KINDS = "of the source and of bystanders, with the marker and without"


def closing_sections(
    cite: Citations, *, kinds: str = ONE_MARKER_KINDS, markers: tuple[str, ...] | None = None
) -> Iterator[Section]:
    """The figures that could not be drawn, and completions as they were said.

    ``kinds`` says what was drawn of (see ``Scoring.kinds``); ``markers`` are highlighted, the study's one by default.
    """
    if cite.left_out:
        missing = tuple(f"`{name}` needs {needs}." for name, needs in cite.left_out.items())
        yield Section("Figures left out", (Bullets(missing),))
    yield Section("Completions", tuple(_completions(cite, kinds, markers or (cite.study.marker,))))


def _completions(cite: Citations, kinds: str, markers: tuple[str, ...]) -> Iterator[Block]:
    yield Paragraph(
        f"Drawn by a derived seed, not chosen: {kinds}, as far as each kind occurs. Model text is shown as it was "
        "written."
    )
    said = "Completions with the marker highlighted." if len(markers) == 1 else "Completions with markers highlighted."
    yield SampleBlock(said, cite.context.samples, markers)
