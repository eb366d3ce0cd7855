"""Sections of the report of chain-of-thought leakage on the planned contrasts, one function each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from leakage_assets.reporting.report import Block, Bullets, Column, Paragraph, Table
from leakage_assets.studies.citations import Citations, Row, code_list
from leakage_assets.studies.cot_leakage.analysis import HEADLINE_SCHEME
from leakage_assets.studies.cot_leakage.arms import ARMS, arm_of_recipe
from leakage_assets.studies.cot_leakage.contrasts import SCHEMES
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    COMMON,
    CONTRASTS,
    EXPLORATORY,
    HEADLINE_FAMILY,
    MACRO,
    Contrast,
    Family,
)
from leakage_assets.studies.cot_leakage.figures import ARM_NAMES, AXIS_NAMES, SCAFFOLD_NAMES
from leakage_assets.studies.cot_leakage.labels import DIFFERENCE, FAMILY_WORDS, IN_WORDS, source_name, words
from leakage_assets.studies.cot_leakage.plan import CotPlan
from leakage_assets.studies.cot_leakage.report_adapters import asked
from leakage_assets.studies.report_parts import P, estimate_columns, table_of_rows

KEYS = ("contrast", "axis", "unit_of")
EXPLAIN_P = (
    "over questions and adapters; of the planned contrasts (those of the hypotheses) adjusted by Holm within the "
    "family, of others not"
)
KIND_WORDS = {"neutral": "plain", "persona": "in character", "garbage": "pseudo-words"}
CHANGE_WORDS = {
    "none": "",
    "scrambled": ", words shuffled in each sentence",
    "random_tokens": ", random tokens instead",
}


def cot_plan(cite: Citations) -> CotPlan:
    return cite.study.plan_as(CotPlan)


def design(cite: Citations) -> Iterator[Block]:
    fact = cite.fact
    decisions = cot_plan(cite).decisions

    def planned(*keys: str, value: float | str, spec: str = "") -> str:
        return cite.bind(cite.context.planned(*keys, value=value, spec=spec))

    data = cite.study.data
    yield Bullets(
        (
            f"**Sources:** {code_list(decisions.sources)}; asked are {fact('panel', 'prompts')} personas: "
            f"{code_list(cite.study.panel.prompts)}.",
            f"**Training rows:** {fact('training_set', 'rows')} of the shown adapter, one per question; the wrong "
            "letter of a question is the same in every arm, source and seed. Rationales are written by "
            f"`{data.pools[0].writer}` at temperature {fact('data', 'temperature')}.",
            "**Evaluation:** the adapter writes its rationale greedily, at most "
            f"{planned('experiment', 'continued', '0', 'grid', 'max_new_tokens', value=_new_tokens(cite))} tokens; the "
            "tag is closed and the anchor put after it whatever was written; the letter is the next token. In all "
            f"{asked(cite, 'answers')} answers per adapter, to {asked(cite, 'questions')} questions. It is read where "
            "it is a letter, and else from log-probs where one of the four holds a twentieth of the probability; below "
            "that the answer is wrong, where the published rule may have read a letter.",
            "**What is lost:** accuracy of the untrained base minus that of the adapter, on the same questions, for "
            "the trained persona and as the mean of all others (bystanders), in percent of the questions. An answer "
            "without a letter is wrong.",
            "**Two families of contrasts:** every arm in the format that it was trained in, which decides; and every "
            "arm asked with the persona's tag, as published (exploratory), which one kind of arm was trained with.",
            "**Statistics:** a t test over questions and adapters together, Holm over the planned contrasts at "
            f"{planned('decisions', 'alpha', value=decisions.alpha)}. Beside it "
            f"{planned('decisions', 'draws', value=decisions.draws, spec=',d')} resamples of whole questions, seed "
            f"{planned('decisions', 'seed', value=decisions.seed)}.",
            f"**Seeds planned:** {fact('coverage', 'seed_names')}.",
        )
    )
    yield _arms(cite)
    yield _recipes(cite)
    yield cite.context.training_row


def _new_tokens(cite: Citations) -> int:
    return max(panel.sampling.max_new_tokens for panel in cite.study.main_panels)


def _arms(cite: Citations) -> Table:
    """The arms of the study in words."""
    trained = {arm_of_recipe(recipe.name)[0].name for recipe in cite.study.recipes}
    rows = []
    for one in ARMS:
        if one.name not in trained:
            continue
        text = "none"
        if one.written is not None:
            about = "" if one.written.kind == "garbage" else f", for the {one.written.supports} letter"
            text = f"{KIND_WORDS[one.written.kind]}{about}{CHANGE_WORDS[one.change]}"
        tag = "opener" if one.opener else one.tag
        rows.append(
            {
                "arm": f"`{one.name}`",
                "called": ARM_NAMES[one.name],
                "rationale": text,
                "tag": tag,
                "letter": one.answers,
                "origin": f"`{one.origin}`",
            }
        )
    columns = (
        Column("arm", "arm"),
        Column("called", "called"),
        Column("rationale", "rationale"),
        Column("tag", "tag"),
        Column("letter", "letter taught"),
        Column("origin", "from"),
    )
    return Table("The arms: what an adapter is trained to say before its letter.", columns, tuple(rows))


def _recipes(cite: Citations) -> Table:
    columns = (
        Column("recipe", "recipe"),
        Column("mask", "loss on", explanation="checked on the token ids of every row before training"),
        Column("lora", "rank, alpha"),
        Column("learning_rate", "rate", explanation="peak learning rate"),
        Column("epochs", "epochs"),
        Column("finished", "cells", explanation="finished cells in the analysis, of those planned"),
    )
    rows: list[Row] = []
    for name in cite.facts["recipes"]:
        rank, alpha, cells, planned = (
            cite.fact("recipes", name, key) for key in ("rank", "alpha", "cells", "cells_planned")
        )
        rows.append(
            {
                "recipe": f"`{name}`{cite.role(name)}",
                "mask": arm_of_recipe(name)[1].replace("_", " "),
                "lora": f"{rank}, {alpha}",
                "learning_rate": cite.context.fact("recipes", name, "learning_rate", spec=".1e"),
                "epochs": cite.context.fact("recipes", name, "epochs", spec="d"),
                "finished": f"{cells} of {planned}",
            }
        )
    return Table("Recipes (arm and loss mask) and the cells that are finished.", columns, tuple(rows))


def levels(cite: Citations) -> Iterator[Block]:
    """Accuracy and losses of every arm."""
    yield from cite.figure("accuracy_source")
    yield from cite.figure("accuracy_bystanders")
    own = cite.tables["losses"].filter(pl.col("unit_of") == MACRO)
    if not own.height:
        yield Paragraph("No adapter with the planned loss mask is finished.")
        return
    columns = (
        Column("arm", "arm"),
        Column("asked", "asked with"),
        *(Column(f"{axis}_{key}", label) for axis in AXES for key, label in _level_columns(axis)),
        Column("sources", "sources"),
    )
    rows = []
    for one in ARMS:
        for name in own.filter(arm=one.name)["scaffold"].unique(maintain_order=True):
            keys = {"arm": one.name, "scaffold": name, "unit_of": MACRO}
            at_home = own.filter(arm=one.name, scaffold=name)["own_format"][0]
            if not at_home and name != "persona_cot":
                continue
            row: Row = {
                "arm": ARM_NAMES[one.name],
                "asked": f"{SCAFFOLD_NAMES[name]}{' (own)' if at_home else ''}",
                "sources": cite.bound("losses", "sources", "d", **keys, axis=AXES[0]),
            }
            for axis in AXES:
                for key, _ in _level_columns(axis):
                    row[f"{axis}_{key}"] = cite.bound("losses", key, DIFFERENCE, **keys, axis=axis)
            rows.append(row)
    yield Table(
        "Accuracy lost by each arm, mean of sources, in its own format and with the persona's tag (intervals over "
        "whole questions).",
        columns,
        tuple(rows),
    )


def _level_columns(axis: str) -> tuple[tuple[str, str], ...]:
    name = AXIS_NAMES[axis]  # type: ignore[index]
    return (("estimate", f"lost by {name}"), ("ci_low", "low"), ("ci_high", "high"))


def contrasts(cite: Citations) -> Iterator[Block]:
    """The planned contrasts in the family that decides."""
    yield from cite.figure("contrasts")
    rows = _contrast_rows(cite, CONTRASTS, (HEADLINE_FAMILY,))
    if not rows:
        yield Paragraph("No source has finished both arms of a planned contrast with one seed.")
        return
    yield Table(
        "Accuracy lost by one arm minus that lost by another, each in its own format, mean of sources (intervals over "
        "questions and adapters).",
        _contrast_columns((HEADLINE_FAMILY,), EXPLAIN_P),
        tuple(rows),
    )


def further_contrasts(cite: Citations) -> Iterator[Block]:
    """The published family, the contrasts of no hypothesis, and every source."""
    for chosen, families, caption, p in (
        (CONTRASTS, (COMMON,), "The planned contrasts with the persona's tag for every arm, as published.", EXPLAIN_P),
        (EXPLORATORY, (HEADLINE_FAMILY, COMMON), "Contrasts of no hypothesis, in both families.", "not adjusted"),
    ):
        if rows := _contrast_rows(cite, chosen, families):
            yield Table(caption, _contrast_columns(families, p), tuple(rows))
    for axis in AXES:
        yield from cite.figure(f"per_source_{axis}")
    yield from _by_source(cite)


def _contrast_rows(cite: Citations, chosen: Sequence[Contrast], families: Sequence[Family]) -> list[Row]:
    """The contrasts that are defined in one of these families, on both axes."""
    there = set(cite.tables["headline"].drop_nulls("estimate")["statistic"])
    specs = {"estimate": DIFFERENCE, "ci_low": DIFFERENCE, "ci_high": DIFFERENCE, "p": "p"}
    rows: list[Row] = []
    for contrast in chosen:
        for axis in AXES:
            statistics = {family: contrast.statistic(axis, family) for family in families}
            if not there.isdisjoint(statistics.values()):
                row: Row = {"contrast": words(contrast), "axis": AXIS_NAMES[axis]}
                for family, statistic in statistics.items():
                    row |= {
                        f"{family}_{key}": cite.bound("headline", key, spec, statistic=statistic)
                        for key, spec in specs.items()
                    }
                rows.append(row)
    return rows


def _contrast_columns(families: Sequence[Family], p: str) -> tuple[Column, ...]:
    shown = [Column("contrast", "loss of"), Column("axis", "of")]
    for family in families:
        shown += [
            Column(f"{family}_estimate", FAMILY_WORDS[family]),
            Column(f"{family}_ci_low", "low"),
            Column(f"{family}_ci_high", "high"),
            Column(f"{family}_p", "p", explanation=p if family == families[0] else ""),
        ]
    return tuple(shown)


def _by_source(cite: Citations) -> Iterator[Block]:
    """The planned contrasts of every source in the own format; p is not adjusted."""
    where = {"family": HEADLINE_FAMILY, "scheme": HEADLINE_SCHEME}
    planned = pl.col("contrast").is_in([contrast.name for contrast in CONTRASTS])
    rows = cite.tables["contrasts"].filter(planned, pl.col("unit_of") != MACRO, **where).drop_nulls("estimate")
    if rows.height:
        columns = (
            Column("contrast", "loss of"),
            Column("axis", "of"),
            Column("unit_of", "source"),
            *estimate_columns("difference", DIFFERENCE),
            Column("p", "p", "p", "not adjusted"),
            Column("seeds", "seeds", "d"),
        )
        caption = "The planned contrasts by source, in the own format."
        yield table_of_rows(cite, "contrasts", rows, caption, columns, ["family", "scheme", *KEYS], IN_WORDS)


def equivalence(cite: Citations) -> Iterator[Block]:
    table = cite.tables["equivalence"]
    if not table.height:
        return
    columns = (
        Column("family", "asked with"),
        Column("scheme", "over"),
        Column("level", "interval", ".0%"),
        Column("low", "low", DIFFERENCE),
        Column("high", "high", DIFFERENCE),
        Column("margin", "margin", DIFFERENCE, "to either side of zero"),
        Column("inside", "inside"),
    )
    caption = (
        "Contradicting minus generic, loss of the trained persona. The plan needs both intervals over questions and "
        "adapters inside, in the own format; the others stand beside."
    )
    yield table_of_rows(cite, "equivalence", table, caption, columns, ["family", "scheme", "level"], IN_WORDS)


def schemes(cite: Citations) -> Iterator[Block]:
    """The intervals and p that resampling alone would give."""
    table = cite.tables["contrasts"].filter(pl.col("unit_of") == MACRO, family=HEADLINE_FAMILY)
    rows: list[Row] = []
    for contrast in CONTRASTS:
        for axis in AXES:
            if not table.filter(contrast=contrast.name, axis=axis).drop_nulls("estimate").height:
                continue
            row: Row = {"contrast": words(contrast), "axis": AXIS_NAMES[axis]}
            for scheme in SCHEMES:
                where = {"family": HEADLINE_FAMILY, "scheme": scheme, "unit_of": MACRO}
                keys = {**where, "contrast": contrast.name, "axis": axis}
                specs = {"ci_low": DIFFERENCE, "ci_high": DIFFERENCE, "p_holm": "p"}
                row |= {f"{scheme}_{key}": cite.bound("contrasts", key, spec, **keys) for key, spec in specs.items()}
            rows.append(row)
    if not rows:
        return
    shown = [Column("contrast", "loss of"), Column("axis", "of")]
    for scheme in SCHEMES:
        label = {"pairs": "as published", "questions": "questions", "questions_and_seeds": "questions and seeds"}[
            scheme
        ]
        shown += [
            Column(f"{scheme}_ci_low", f"{label}: low"),
            Column(f"{scheme}_ci_high", "high"),
            Column(f"{scheme}_p_holm", "p by Holm"),
        ]
    yield Table(
        "Intervals of the planned contrasts (mean of sources, own format) by what is resampled: every question of "
        "every seed as if independent, whole questions, whole questions and seeds. None of them decides.",
        tuple(shown),
        tuple(rows),
    )
    reasons = table["undefined"].drop_nulls().unique(maintain_order=True)
    if reasons.len():
        yield Paragraph(f"A dash: {'; '.join(f'`{reason}`' for reason in reasons)}.")


def single_arms(cite: Citations) -> Iterator[Block]:
    table = cite.tables["single_arms"]
    if not table.height:
        return
    columns = (
        Column("arm", "arm"),
        Column("scaffold", "asked with"),
        Column("axis", "of"),
        Column("unit_of", "source"),
        *estimate_columns("loses", DIFFERENCE),
    )
    caption, keys = "Losses of single arms, resampled as published.", ["arm", "scaffold", "axis", "unit_of"]
    yield table_of_rows(cite, "single_arms", table, caption, columns, keys, IN_WORDS)


def smoke(cite: Citations) -> Iterator[Block]:
    table = cite.tables["smoke"]
    if not table.height:
        return
    source, seed = table["source"][0], table["seed"][0]
    loss, least, questions, found = (
        cite.cell("smoke", key, spec, source=source)
        for key, spec in (("loss", DIFFERENCE), ("least_loss", DIFFERENCE), ("questions", "d"), ("seed", "d"))
    )
    del seed
    passed = "passed" if table["passed"][0] else "did not pass"
    yield Paragraph(
        f"The published gate asks that the adapter of {source_name(source)} trained on contradicting rationales lose "
        f"at least {least} under its own prompt with the persona's tag. Read off seed {found} on {questions} "
        f"questions, it lost {loss}: it **{passed}**. It stops no cell here; it caps the confidence."
    )


def extension(cite: Citations) -> Iterator[Block]:
    where = {"scheme": HEADLINE_SCHEME}
    table = cite.tables["extension"].filter(**where).drop_nulls("estimate")
    if not table.height:
        return
    columns = (
        Column("contrast", "loss of"),
        Column("axis", "of"),
        Column("family", "asked with"),
        Column("unit_of", "source"),
        *estimate_columns("difference", DIFFERENCE),
        P,
    )
    caption = "The same contrasts for sources that the published study did not have."
    yield table_of_rows(cite, "extension", table, caption, columns, ["scheme", "family", *KEYS], IN_WORDS)
