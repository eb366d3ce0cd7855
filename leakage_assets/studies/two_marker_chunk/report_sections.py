"""Sections of the report of two markers on its hypotheses, one function each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from leakage_assets.reporting.report import Block, Bullets, Column, Level, Paragraph, Table
from leakage_assets.studies.citations import LIMIT, RATE, Citations, Row, code_list
from leakage_assets.studies.report_parts import (
    estimate_columns,
    interval_or_none,
    layer_list,
    recipe_table,
    rows_of_table,
    table_of_rows,
    value,
    verdict,
)
from leakage_assets.studies.two_marker_chunk.analysis import UNTRAINED
from leakage_assets.studies.two_marker_chunk.arms import NEGATIVES, T_ALL, T_MASKED, Pair, T
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan, planned
from leakage_assets.studies.two_marker_chunk.gates import COUNTS
from leakage_assets.studies.two_marker_chunk.labels import (
    CHANGE,
    CONDITIONS,
    LISTS,
    RATE_NAMES,
    in_words,
)

P = Column("p", "p", "p", "of no difference, two-sided, by the bootstrap over questions")
ABOVE = Column("p", "p", "p", "of a difference that is just negligible, two-sided, by the bootstrap over questions")
OVER_SEEDS = "seeds resampled, then questions within each"
BY_SEED = (Column("seed_low", "seeds, low", CHANGE, OVER_SEEDS), Column("seed_high", "high", CHANGE, OVER_SEEDS))
BOTH = (
    Column("both_low", "both, low", CHANGE, "t interval on the variance over questions plus that over cells"),
    Column("both_high", "high", CHANGE),
)
CHANGES = estimate_columns("difference", CHANGE, "interval over questions, seeds held fixed")


def pair_plan(cite: Citations) -> TwoMarkerPlan:
    return cite.study.plan_as(TwoMarkerPlan)


def finished(cite: Citations, arm: str) -> list[Pair]:
    """The pairs with a finished cell under an arm."""
    there = set(cite.tables["counts"].filter(recipe=arm)["source"])
    return [pair for pair in pair_plan(cite).pairs if pair.name in there]


def not_finished(arms: Sequence[str]) -> Paragraph:
    return Paragraph(f"No pair has a seed that is finished under both of {' and '.join(f'`{arm}`' for arm in arms)}.")


def decided_by(cite: Citations, hypothesis: str) -> str:
    """What a verdict on arms is read from: the interval over questions and adapters, and the adjusted p."""
    row = cite.tables["verdicts"].filter(hypothesis=hypothesis).row(0, named=True)
    found = "no interval over questions and adapters"
    if row["both_low"] is not None:
        low, high = (cite.cell("verdicts", end, CHANGE, hypothesis=hypothesis) for end in ("both_low", "both_high"))
        found = f"{cite.planned('level', spec='.0%')} interval {low} to {high} over questions and adapters"
    if row["p_holm"] is None:
        return found
    against = f" against {cite.cell('verdicts', 'threshold', LIMIT, hypothesis=hypothesis)}" if row["threshold"] else ""
    return f"{found}, adjusted p{against} = {cite.cell('verdicts', 'p_holm', 'p', hypothesis=hypothesis)}"


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
            f"suffix where it starts among the last {_width(cite, 'suffix_within')}. A B anywhere after A is more "
            "often the first than the second by these widths alone, so both are read beside a B put at random after A "
            "(before it, in that arm) in the same completion. Positions are read only where at "
            f"least {cite.planned('enough_pairs', spec='.0%')} of the completions have both.",
            f"**Seeds planned:** {fact('coverage', 'seed_names')}.",
            f"**Statistics:** {cite.planned('draws', spec=',d')} resamples of whole questions, seed "
            f"{cite.planned('resampling_seed')}, the same for all that is compared. Chunk binding was published as "
            f"falsified where the difference is at most {cite.planned('negligible', spec=LIMIT)} either way and its "
            "interval holds zero; here its whole interval must be as small, over questions and over questions and "
            "adapters. Nothing is decided where a side of a ratio "
            f"rests on fewer than {_floor(cite, 'completions')} completions or {_floor(cite, 'questions')} questions. "
            f"Layers {layer_list(cite)} (block outputs, from zero), {cite.planned('primary_layer')} first.",
        )
    )
    yield _arms(cite)
    yield recipe_table(cite)
    yield cite.context.training_row


def _floor(cite: Citations, name: str) -> str:
    return cite.bind(cite.context.planned("floors", name, value=getattr(pair_plan(cite).floors, name)))


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


# ------------------------------------------------------------------ verdicts


def hangs_on(cite: Citations) -> Iterator[Block]:
    """What verdicts need beside their threshold and p."""
    yield Paragraph(
        "A hypothesis over arms is supported only if its p over questions and adapters, adjusted for all of them "
        "(Holm), is small enough, and if every side of it rests on enough completions and questions. That p is of a t "
        "test whose variance is that over questions plus that over the cells' differences: each cell is a pair of "
        "adapters of its own, so it allows for other questions and other training runs of these pairs, and not for "
        f"other pairs. With fewer than {cite.planned('least_cells')} cells it has the degrees of freedom of the cells "
        "alone. It is two-sided: where the value is on the other side of the threshold a small p excludes the "
        "hypothesis. With one seed there is no such test, and nothing is supported."
    )
    columns = (
        Column("hypothesis", ""),
        Column("p_holm", "p, adjusted", "p", "over questions and adapters, adjusted for the hypotheses over arms"),
        *BOTH,
        Column("adapters_low", "adapters, low", CHANGE, "t interval over the cells' differences alone"),
        Column("adapters_high", "high", CHANGE),
        Column("cells", "cells", "d"),
        Column("reason", "hangs on"),
        Column("verdict", "verdict"),
    )
    yield from rows_of_table(cite, "verdicts", "What each verdict hangs on.", columns, ["hypothesis"])


# ------------------------------------------------------------------ gates


def coherence(cite: Citations) -> Iterator[Block]:
    tallies = cite.tables["gate_tallies"]
    if not tallies.height:
        yield Paragraph("None of the arms that gates are read from is finished.")
        return
    yield Paragraph(
        "Gates are reported and stop nothing. The write-up and the published code had different lists for the arms of "
        "the first study, the follow-up a third for the arms whose recipient is not taught to stop, to which this "
        "study adds its own; a gate that lacks an arm is unknown."
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
        keys = {"source": source, "arm": arm, "gate": gate}
        spec, limit_spec = (".0f", ".0f") if gate in COUNTS else (RATE, ".0%")
        limit = cite.cell("gates", "limit", limit_spec, **keys)
        row: Row = {name: cite.bound("gates", name, "", **keys) for name in (*keys, "passed")}
        rows.append(
            row | {"value": cite.bound("gates", "value", spec, **keys), "rule": f"{CONDITIONS[direction]} {limit}"}
        )
    return Table("Every gate of every list.", columns, tuple(rows))


def coherence_cap(cite: Citations) -> tuple[Level, str] | None:
    """What gates, pairs, cells and question sets of the headline arm hold against more confidence."""
    found = [*_caps(cite)]
    if not found:
        return None
    level: Level = "LOW" if any(low for low, _ in found) else "MODERATE"
    return level, "; ".join(f"{reason}, which caps it at {'LOW' if low else 'MODERATE'}" for low, reason in found)


def b_only_with_a(cite: Citations) -> bool:
    """Whether recipients of the headline arm say B without A in no more than a negligible share, in every pair."""
    found = value(cite, "b_without_a_upper")
    return found is not None and found <= pair_plan(cite).negligible


def _caps(cite: Citations) -> Iterator[tuple[bool, str]]:
    """Whether to LOW, and why."""
    gates, first = cite.tables["gates"].filter(arm=cite.recipe), cite.tables["verdicts"].row(0, named=True)
    failed = gates.filter(pl.col("passed").not_())
    if failed.filter(pl.col("gate").str.starts_with("donor R_B|A")).height:
        yield True, "a donor of the headline arm does not say the pair it was taught"
    elif failed.height:
        yield False, "a gate of the headline arm is failed"
    if gates["passed"].null_count():
        yield False, "a gate of the headline arm is unknown"
    if first["verdict"] == "undecided" and first["estimate"] is not None:
        reason = cite.cell("verdicts", "reason", "", hypothesis=first["hypothesis"])
        yield True, f"the title's claim is undecided ({reason})"
    high = first["both_high"]
    if first["verdict"] == "not supported" and (high is None or high >= first["threshold"]):
        yield False, "the title's claim is not excluded by the interval over questions and adapters"
    pairs = cite.tables["pair_verdicts"].filter(hypothesis=first["hypothesis"])["verdict"]
    if first["verdict"] == "supported" and not (pairs == "supported").any():
        yield False, "no pair by itself supports the title's claim"
    elif (pairs != first["verdict"]).any():
        yield False, "pairs by themselves differ in the verdict on the title's claim"
    if first["verdict"] == "supported" and not b_only_with_a(cite):
        yield False, "it is not excluded that B comes without A"
    cells = cite.tables["cells"].filter(statistic=first["statistic"])["difference"]
    if first["verdict"] == "supported" and (cells <= 0).any():
        yield False, "a cell of the headline arm shows nothing of the title's claim"
    if cite.tables["split"].filter(recipe=cite.recipe, role="recipient")["downgraded"].any():
        yield False, "recipients of the headline arm differ between questions in and out of distribution"


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
        ABOVE,
        *BY_SEED,
        Column("falsification", "chunk binding"),
        Column("published_rule", "as published", "", "small, and the interval holds zero, however wide it is"),
    )
    if not rows.height:
        yield Paragraph("No arm is finished together with its control.")
        return
    yield _differences(cite, rows, "B given A of the recipient: an arm minus its control.", columns)
    yield Paragraph(
        "The published rule asks for a small difference and an interval that holds zero, which a wide one does as "
        "well: here the whole interval must be small, and that over questions and adapters too. Where the recipient "
        "never says B, the difference is zero in every draw, and the interval is left out: then it is Newcombe's that "
        "must be small."
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
    """Whether masking the recipient's end of turn moves its B given A: the verdict on H3, with what it is read from."""
    if value(cite, "mask_effect") is None:
        return f"**End of turn:** not known ({cite.headline('mask_effect', 'undefined', '')})."
    moved = verdict(cite, "H3") == "supported"
    said = "moves B given A of recipients" if moved else "is **not shown to move** B given A of recipients"
    return (
        f"**End of turn:** leaving the recipient's end of turn out of the loss {said}: "
        f"{cite.headline('mask_effect')} ({decided_by(cite, 'H3')}, `{T_MASKED}` minus `{T}`)."
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
            f"Exploratory: with nobody's end of turn in the loss the change is {cite.headline('mask_all_effect')} "
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

BEYOND_RANDOM = (
    "share close to A minus share at the end, less the same difference for a B put at random on its side of A; either "
    "difference lies between minus and plus a hundred points, so this one may pass them"
)


def places(cite: Citations) -> Iterator[Block]:
    yield Paragraph(
        "At fixed ends a B that belongs to A and a B that belongs to the end of the answer stand at the same place, "
        "unless it keeps close to A at the start, or ends answers without A as well: else only the arms of random "
        "places tell them apart. There a B anywhere after A is close to it more often than at "
        "the end, by the widths alone: what counts is how much more than a B put at random. A recipient that says A in "
        "every completion shows no dependence on it, so it cannot be called a chunk."
    )
    yield from cite.figure("positions")
    yield from cite.figure("positions_random")
    found = cite.tables["binding"].filter(
        pl.col("statistic") == "nearer_than_random",
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
        *estimate_columns("beyond random", CHANGE, explanation=BEYOND_RANDOM),
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
        Column("p_holm", "adjusted", "p", "Holm, over the untrained personas of the pair and arm"),
    )
    caption = "B of personas that a pair did not train, an arm minus its control: all of them, and each that differs."
    yield _differences(cite, rows, caption, columns)


def each_pair(cite: Citations) -> Iterator[Block]:
    columns = (
        Column("source", "pair"),
        Column("hypothesis", ""),
        Column("claim", "claim"),
        Column("estimate", "estimate", CHANGE),
        Column("p_holm", "p, adjusted", "p", "over questions and adapters, adjusted for the hypotheses on the pair"),
        *BOTH,
        Column("adapters_low", "adapters, low", CHANGE, "t interval over the pair's seeds"),
        Column("adapters_high", "high", CHANGE),
        Column("reason", "hangs on"),
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
