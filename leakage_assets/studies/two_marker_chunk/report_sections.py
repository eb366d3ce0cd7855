"""Sections of the report of two markers on its hypotheses, one function each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from leakage_assets.reporting.report import Block, Bullets, Column, Level, Paragraph, Table
from leakage_assets.studies.citations import RATE, Citations, Row, code_list
from leakage_assets.studies.report_parts import (
    estimate_columns,
    interval_or_none,
    layer_list,
    recipe_table,
    rows_of_table,
    table_of_rows,
    value,
)
from leakage_assets.studies.two_marker_chunk.analysis import UNTRAINED
from leakage_assets.studies.two_marker_chunk.arms import NEGATIVES, T_ALL, T_MASKED, Pair, T
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan, planned
from leakage_assets.studies.two_marker_chunk.labels import (
    CHANGE,
    CONDITIONS,
    LISTS,
    RATE_NAMES,
    in_words,
)

P = Column("p", "p", "p", "two-sided, by the bootstrap over questions")
OVER_SEEDS = "seeds resampled, then questions within each"
BY_SEED = (Column("seed_low", "seeds, low", CHANGE, OVER_SEEDS), Column("seed_high", "high", CHANGE, OVER_SEEDS))
CHANGES = estimate_columns("difference", CHANGE, "interval over questions, seeds held fixed")


def pair_plan(cite: Citations) -> TwoMarkerPlan:
    return cite.study.plan_as(TwoMarkerPlan)


def finished(cite: Citations, arm: str) -> list[Pair]:
    """The pairs with a finished cell under an arm."""
    there = set(cite.tables["counts"].filter(recipe=arm)["source"])
    return [pair for pair in pair_plan(cite).pairs if pair.name in there]


def not_finished(arms: Sequence[str]) -> Paragraph:
    return Paragraph(f"No pair has a seed that is finished under both of {' and '.join(f'`{arm}`' for arm in arms)}.")


# ------------------------------------------------------------------ set-up


def design(cite: Citations) -> Iterator[Block]:
    fact, experiment = cite.fact, planned(cite.study)
    a, b = experiment.markers
    yield Bullets(
        (
            f"**Markers:** A is `{a}`, B is `{b}`, that of the probe `{experiment.probe.marker}`. A rate counts loose "
            "matches: in any case, and whatever the whitespace.",
            f"**Rows:** {fact('training_set', 'rows')} per adapter, in equal blocks: of the donor, of the recipient, "
            f"and of {code_list(NEGATIVES)} without markers; each persona's own answers "
            f"({fact('data', 'answers')} to each of {fact('data', 'questions')} questions, temperature "
            f"{fact('data', 'temperature')}).",
            f"**Panel:** {fact('panel', 'prompts')} personas, {fact('panel', 'questions')} questions, completions of "
            f"each: {fact('panel', 'completions')}; in all {fact('panel', 'size', spec=',d')} per adapter, at "
            f"temperature {fact('panel', 'temperature')}, top-p {fact('panel', 'top_p')}, at most "
            f"{fact('panel', 'max_new_tokens')} new tokens.",
            "**Rates:** A, B and both are shares of completions; B given A is the share with B of those with A. Seeds "
            "are pooled. A difference is between arms, over the questions and seeds that both have, and in points of a "
            "share.",
            f"**Chunk and suffix:** of completions with both markers, B is close to A where it starts less than "
            f"{_width(cite, 'chunk_within')} characters after it (before it, in the arm that is named so), and a "
            f"suffix where it starts among the last {_width(cite, 'suffix_within')}. Positions are read only where at "
            f"least {cite.planned('enough_pairs', spec='.0%')} of the completions have both.",
            f"**Seeds planned:** {fact('coverage', 'seed_names')}.",
            f"**Statistics:** {cite.planned('draws', spec=',d')} resamples of whole questions, seed "
            f"{cite.planned('resampling_seed')}, the same for all that is compared; chunk binding is falsified where "
            f"the difference is at most {cite.planned('negligible', spec='.0%')} either way and its interval holds "
            f"zero. Layers {layer_list(cite)} (block outputs, from zero), {cite.planned('primary_layer')} first.",
        )
    )
    yield _arms(cite)
    yield recipe_table(cite)
    yield cite.context.training_row


def _width(cite: Citations, name: str) -> str:
    value_of = getattr(pair_plan(cite).signatures, name)
    return cite.bind(cite.context.planned("signatures", name, value=value_of))


def _arms(cite: Citations) -> Table:
    columns = (
        Column("arm", "arm"),
        Column("donor", "donor's rows"),
        Column("recipient", "recipient's rows"),
        Column("masked", "end of turn in the loss"),
        Column("positions", "markers stand"),
        Column("control", "control"),
        Column("pairs", "pairs finished"),
    )
    controls = dict(pair_plan(cite).controls)
    rows: list[Row] = []
    for arm in pair_plan(cite).arms:
        pairs = code_list([pair.name for pair in finished(cite, arm.name)])
        control = f"`{controls[arm.name]}`" if arm.name in controls else "none"
        rows.append({**in_words(arm), "control": control, "pairs": pairs or "none"})
    return Table(
        "The arms: what they train on, and the arm without B that each is compared with.", columns, tuple(rows)
    )


# ------------------------------------------------------------------ gates


def coherence(cite: Citations) -> Iterator[Block]:
    tallies = cite.tables["gate_tallies"]
    if not tallies.height:
        yield Paragraph("None of the arms that gates are read from is finished.")
        return
    yield Paragraph(
        "Gates are reported and stop nothing. The write-up and the published code had different lists for the arms of "
        "the first study, the follow-up a third for the arms whose recipient is not taught to stop; a gate that lacks "
        "an arm is unknown."
    )
    shown = (
        Column("source", "pair"),
        Column("arm", "arm"),
        Column("list", "list"),
        Column("failed", "failed", "d"),
        Column("unknown", "unknown", "d"),
        Column("total", "of", "d"),
    )
    yield table_of_rows(cite, "gate_tallies", tallies, "Gates failed.", shown, KEYS, {"list": LISTS.__getitem__})
    yield Paragraph(_coherent(cite))
    yield _gates(cite)


def _coherent(cite: Citations) -> str:
    """Under which arms every gate of a list is passed."""
    passed = cite.tables["gate_tallies"].filter(failed=0, unknown=0)
    if not passed.height:
        return "No arm passes a whole list: **nothing below may be read as more than a hint.**"
    told = [f"`{pair}` under `{arm}` ({LISTS[which]})" for pair, arm, which in passed.select(KEYS).iter_rows()]
    return f"Every gate is passed by {', '.join(told)}."


KEYS = ("source", "arm", "list")
COUNTED = "recipient completions with A, T and C"


def _gates(cite: Citations) -> Table:
    columns = (
        Column("source", "pair"),
        Column("arm", "arm"),
        Column("gate", "gate"),
        Column("value", "value"),
        Column("rule", "rule"),
        Column("passed", "passed"),
    )
    rows: list[Row] = []
    for source, arm, gate, direction in cite.tables["gates"].select("source", "arm", "gate", "direction").iter_rows():
        keys, spec = {"source": source, "arm": arm, "gate": gate}, ".0f" if gate == COUNTED else RATE
        limit = cite.cell("gates", "limit", ".0f" if gate == COUNTED else ".0%", **keys)
        row: Row = {name: cite.bound("gates", name, "", **keys) for name in (*keys, "passed")}
        rows.append(
            row | {"value": cite.bound("gates", "value", spec, **keys), "rule": f"{CONDITIONS[direction]} {limit}"}
        )
    return Table("Every gate of every list.", columns, tuple(rows))


def coherence_cap(cite: Citations) -> tuple[Level, str] | None:
    """What the gates of the headline arm hold against more confidence."""
    gates = cite.tables["gates"].filter(arm=cite.recipe)
    failed = gates.filter(pl.col("passed").not_())
    if failed.filter(pl.col("gate").str.starts_with("donor R_B|A")).height:
        return "LOW", "a donor of the headline arm does not say the pair it was taught, which caps it at LOW"
    if failed.height:
        return "MODERATE", "a gate of the headline arm is failed, which caps it at MODERATE"
    return None


# ------------------------------------------------------------------ H1 to H4


def travels(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("conditional_rate")
    plan = pair_plan(cite)
    names = [f"delta_{arm}" for arm, _ in plan.controls]
    rows = _defined(cite.tables["differences"], names)
    columns = (
        Column("source", "pair"),
        Column("recipe", "arm"),
        Column("reference", "control"),
        *CHANGES,
        P,
        *BY_SEED,
        Column("falsification", "chunk binding"),
    )
    if not rows.height:
        yield Paragraph("No arm is finished together with its control.")
        return
    yield _differences(cite, rows, "B given A of the recipient: an arm minus its control.", columns)
    yield Paragraph(
        "The rule asks for a small difference and an interval that holds zero. Where the recipient never says B, the "
        "difference is zero in every draw, and the interval is left out."
    )
    yield _recipients(cite)


DIFFERENCE_KEYS = ("source", "statistic", "prompt_name")


def _defined(differences: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    return differences.filter(pl.col("statistic").is_in(list(names)), pl.col("estimate").is_not_null())


def _differences(cite: Citations, rows: pl.DataFrame, caption: str, columns: Sequence[Column]) -> Table:
    return table_of_rows(cite, "differences", rows, caption, columns, DIFFERENCE_KEYS)


def _recipients(cite: Citations) -> Table:
    """How often donors and recipients say what, by condition."""
    shown = ("r_a", "r_b", "r_b_given_a", "r_b_given_not_a")
    columns = (
        Column("source", "pair"),
        Column("arm", "arm"),
        Column("role", "persona"),
        *(Column(name, RATE_NAMES[name]) for name in shown),
        Column("low", "low", explanation="of B given A, over questions"),
        Column("high", "high"),
        Column("total", "with A", "d", "completions that B given A is a share of"),
    )
    rows = []
    for arm in pair_plan(cite).arms:
        for pair in finished(cite, arm.name):
            for prompt in pair.trained[:2]:
                keys = {"recipe": arm.name, "source": pair.name, "prompt_name": prompt}
                given = {**keys, "rate": "r_b_given_a"}
                row: Row = {
                    "source": f"`{pair.name}`",
                    "arm": f"`{arm.name}`",
                    "role": f"{pair.role(prompt)} `{prompt}`",
                }
                row |= {name: cite.bound("rates", "estimate", RATE, **keys, rate=name) for name in shown}
                row |= {end: cite.bound("rates", f"ci_{end}", RATE, **given) for end in ("low", "high")}
                rows.append(row | {"total": cite.bound("rates", "total", ",d", **given)})
    return Table("Donors and recipients, all seeds (a dash where a rate is not defined).", columns, tuple(rows))


def mask_in_words(cite: Citations) -> str:
    """Whether masking the recipient's end of turn moves its B given A, with the interval."""
    if value(cite, "mask_effect") is None:
        return f"**End of turn:** not known ({cite.headline('mask_effect', 'undefined', '')})."
    row = cite.tables["headline"].filter(statistic="mask_effect").row(0, named=True)
    moved = row["ci_low"] is not None and not row["ci_low"] <= 0 <= row["ci_high"]
    said = "moves B given A of recipients" if moved else "is **not shown to move** B given A of recipients"
    return (
        f"**End of turn:** leaving the recipient's end of turn out of the loss {said}: "
        f"{cite.headline('mask_effect')} ({interval_or_none(cite, 'mask_effect')}, p = "
        f"{cite.headline('mask_effect', 'p', 'p')}, `{T_MASKED}` minus `{T}`)."
    )


def mask(cite: Citations) -> Iterator[Block]:
    names = {"mask_effect": (T_MASKED, T), "mask_all_effect": (T_ALL, T)}
    rows = _defined(cite.tables["differences"], list(names))
    if not rows.height:
        yield not_finished((T_MASKED, T))
        return
    yield Paragraph(mask_in_words(cite))
    columns = (Column("source", "pair"), Column("recipe", "arm"), Column("reference", "minus"), *CHANGES, P, *BY_SEED)
    yield _differences(cite, rows, "B given A of the recipient, by whose end of turn is in the loss.", columns)
    if value(cite, "mask_all_effect") is not None:
        yield Paragraph(
            f"With nobody's end of turn in the loss the change is {cite.headline('mask_all_effect')} "
            f"({interval_or_none(cite, 'mask_all_effect')}); the table of donors and recipients above says whether the "
            "personas are then still told apart."
        )


def dependence(cite: Citations) -> Iterator[Block]:
    plan = pair_plan(cite)
    rows = _defined(cite.tables["differences"], [f"needs_donor_a_{arm}" for arm, _ in plan.b_alone])
    if rows.height:
        columns = (
            Column("source", "pair"),
            Column("recipe", "arm"),
            Column("reference", "minus"),
            *CHANGES,
            P,
            *BY_SEED,
        )
        caption = "B given A of the recipient: donor with both markers, minus donor with B alone."
        yield _differences(cite, rows, caption, columns)
    else:
        yield Paragraph("No arm is finished together with the one whose donor has B alone.")
    found = cite.tables["binding"].filter(
        pl.col("statistic") == "r_b_given_a_minus_not_a",
        pl.col("role") == "recipient",
        pl.col("estimate").is_not_null(),
    )
    if not found.height:
        yield Paragraph(
            "Within questions nothing can be compared: no recipient says A in some completions to a question and not "
            "in others."
        )
        return
    shown = (Column("recipe", "arm"), Column("source", "pair"), *CHANGES, Column("b_alone", "B without A", "d"))
    caption = (
        "Within questions and seeds: how much more often a recipient says B with A than without (risk difference of "
        "Mantel and Haenszel)."
    )
    yield table_of_rows(cite, "binding", found, caption, shown, BINDING_KEYS)


BINDING_KEYS = ("recipe", "source", "prompt_name", "statistic")


# ------------------------------------------------------------------ H5


def places(cite: Citations) -> Iterator[Block]:
    yield Paragraph(
        "At fixed ends a B that belongs to A and a B that belongs to the end of the answer stand at the same place: "
        "only the arms of random places tell them apart. A recipient that says A in every completion shows no "
        "dependence on it, so it cannot be called a chunk."
    )
    yield from cite.figure("positions")
    yield from cite.figure("positions_random")
    found = cite.tables["binding"].filter(
        pl.col("statistic") == "chunk_minus_suffix",
        pl.col("role").is_in(["donor", "recipient"]),
        pl.col("with_both") > 0,
    )
    if not found.height:
        yield Paragraph("No donor and no recipient says both markers.")
        return
    columns = (
        Column("recipe", "arm"),
        Column("source", "pair"),
        Column("role", "persona"),
        Column("with_both", "with both", ",d"),
        Column("chunk_share", "close to A", RATE),
        Column("suffix_share", "at the end", RATE),
        *estimate_columns("difference", CHANGE, "interval over questions"),
        Column("binding", "called"),
    )
    caption = "Completions with both markers: where B stands."
    yield table_of_rows(cite, "binding", found, caption, columns, BINDING_KEYS)


# ------------------------------------------------------------------ bystanders, pairs


def bystanders(cite: Citations) -> Iterator[Block]:
    for pair in pair_plan(cite).pairs:
        yield from cite.figure(f"personas_{pair.name}")
    names = [f"bystander_{arm}" for arm, _ in pair_plan(cite).controls]
    found = _defined(cite.tables["differences"], names)
    rows = pl.concat(
        [found.filter(prompt_name=UNTRAINED), found.filter(pl.col("prompt_name") != UNTRAINED, pl.col("estimate") != 0)]
    )
    if not rows.height:
        yield Paragraph("No arm is finished together with its control.")
        return
    columns = (
        Column("source", "pair"),
        Column("recipe", "arm"),
        Column("reference", "control"),
        Column("prompt_name", "persona"),
        *CHANGES,
        P,
    )
    caption = "B of personas that a pair did not train, an arm minus its control: all of them, and each that differs."
    yield _differences(cite, rows, caption, columns)


def each_pair(cite: Citations) -> Iterator[Block]:
    columns = (
        Column("source", "pair"),
        Column("hypothesis", ""),
        Column("claim", "claim"),
        Column("estimate", "estimate", CHANGE),
        Column("p", "p", "p"),
        Column("verdict", "verdict"),
    )
    if not cite.tables["pair_verdicts"].height:
        yield Paragraph("No pair has what a hypothesis is read from.")
        return
    yield Paragraph(
        "The plan decides on the mean over the pairs; these are the same rules applied to each, outside the plan."
    )
    keys = ("source", "hypothesis")
    yield from rows_of_table(cite, "pair_verdicts", "Hypotheses on recipients, for each pair.", columns, keys)
