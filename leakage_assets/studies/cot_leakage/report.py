"""The write-up of chain-of-thought leakage: title, summary, and the order of its sections.

Every number is bound to a cell of the analysis, of the frozen plan, of the facts of the run or of the published
figures; `reporting.lint` refuses any other digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leakage_assets.reporting.report import Claim, Level, Report, Section
from leakage_assets.studies.citations import Citations
from leakage_assets.studies.context import ReportContext
from leakage_assets.studies.cot_leakage import figures as drawn
from leakage_assets.studies.cot_leakage.arms import GARBAGE, PERSONA
from leakage_assets.studies.cot_leakage.design import (
    BYSTANDER,
    COMMON,
    CONTRASTS,
    EQUIVALENCE,
    OWN_FORMAT,
    SOURCE_LOSS,
    Axis,
    Contrast,
    Family,
)
from leakage_assets.studies.cot_leakage.evaluation import SCAFFOLDS
from leakage_assets.studies.cot_leakage.labels import HEADLINE
from leakage_assets.studies.cot_leakage.plan import CotPlan
from leakage_assets.studies.cot_leakage.report_measures import (
    answers,
    drift,
    labels,
    mask,
    published_and_this_run,
    vocabulary,
)
from leakage_assets.studies.cot_leakage.report_sections import (
    contrasts,
    design,
    equivalence,
    extension,
    levels,
    schemes,
    single_arms,
    smoke,
)
from leakage_assets.studies.drawings import Tables
from leakage_assets.studies.report_parts import (
    citations,
    closing_sections,
    coverage,
    interval_or_none,
    nothing_yet,
    sample_size,
    summary_claims,
    value,
    warnings,
    write_up,
)
from leakage_assets.studies.report_verdicts import plan_verdicts
from leakage_assets.studies.study import Study

if TYPE_CHECKING:
    import plotly.graph_objects as go

LEAKS = "H2b"
"""The hypothesis that the title is about: bystanders lose more after persona rationales than after garbage."""

PERSONA_GARBAGE = Contrast(PERSONA, GARBAGE)
P_OF = (
    "of the planned contrasts adjusted by Holm over all of them, within their family; at least one over the number of "
    "resamples and one"
)
KINDS = "rationales of the trained persona and of others, under every scaffold that has one"
LEAST_LETTERS = 5
"""Shorter telling words would be highlighted inside others."""


def figures(study: Study, tables: Tables) -> dict[str, go.Figure]:
    """Every figure that the finished cells allow, by name."""
    return drawn.figures(study.plan_as(CotPlan).decisions, tables)


def report(study: Study, tables: Tables, context: ReportContext) -> Report:
    """The report of the newest analysis.

    Raises ``ReportError`` where a table lacks a row that the text cites: text and analysis have drifted apart.
    """
    decisions = study.plan_as(CotPlan).decisions
    planned = drawn.drawings(decisions)
    cite = citations(study, tables, context, planned=planned, subject=decisions, labels=HEADLINE)
    return write_up(cite, _title, _tldr, _summary, _sections, _cap, titled=LEAKS)


def _cap(cite: Citations) -> tuple[Level, str] | None:
    """The title's claim must be decided, and the gate of section 5 must have passed."""
    if _verdict(cite, LEAKS) == "undecided":
        return "LOW", "the title's claim is undecided, which caps it at LOW"
    if cite.tables["smoke"].height and not cite.tables["smoke"]["passed"].all():
        return "MODERATE", "the gate after the first adapter did not pass, which caps it at MODERATE"
    return None


def _verdict(cite: Citations, name: str) -> str:
    return str(cite.tables["verdicts"].filter(hypothesis=name)["verdict"].item())


# ------------------------------------------------------------------ the top


def _title(cite: Citations) -> str:
    where = "In the bundled synthetic world" if cite.facts["base"]["bundled"] else "In the base model"
    statistic = PERSONA_GARBAGE.statistic(BYSTANDER, COMMON)
    if _verdict(cite, LEAKS) == "undecided":
        return f"{where}, it is undecided whether persona rationales leak more than garbage"
    found = f"(difference of the accuracy that bystanders lose: {_with_interval(cite, statistic)})"
    if _verdict(cite, LEAKS) == "supported":
        return f"{where}, rationales in a persona's voice leak more to other personas than garbage does {found}"
    if _below_zero(cite, statistic):
        return f"{where}, rationales in a persona's voice leak less to other personas than garbage does {found}"
    return f"{where}, rationales in a persona's voice are not shown to leak more than garbage {found}"


def _below_zero(cite: Citations, statistic: str) -> bool:
    """Whether the whole interval is."""
    high = cite.tables["headline"].filter(statistic=statistic)["ci_high"].item()
    return high is not None and high < 0


def _with_interval(cite: Citations, statistic: str) -> str:
    return f"{cite.headline(statistic)}, {interval_or_none(cite, statistic)}"


def _tldr(cite: Citations) -> tuple[str, ...]:
    items = [*_persona(cite), _equal(cite)] if cite.has_headline else [nothing_yet(cite)]
    return (*items, coverage(cite), *warnings(cite))


def _persona(cite: Citations) -> Iterator[str]:
    """Persona against garbage in both families, and what each does to the trained persona."""
    statistic = PERSONA_GARBAGE.statistic(BYSTANDER, COMMON)
    if value(cite, statistic) is None:
        yield f"**Persona or garbage:** not compared ({cite.headline(statistic, 'undefined', '')})."
        return
    yield (
        f"**Persona or garbage:** asked with the persona's tag, bystanders lose {_more(cite, BYSTANDER)} accuracy "
        f"after persona rationales than after garbage: {_difference(cite, COMMON, BYSTANDER)}; asked each in "
        f"the format that it was trained in, {_difference(cite, OWN_FORMAT, BYSTANDER)}. {_agreement(cite)}"
    )
    yield (
        f"**The trained persona** loses {_more(cite, SOURCE_LOSS)} after persona rationales than after garbage: with "
        f"the persona's tag {_difference(cite, COMMON, SOURCE_LOSS)}; in the own format "
        f"{_difference(cite, OWN_FORMAT, SOURCE_LOSS)}."
    )


def _more(cite: Citations, axis: Axis) -> str:
    """In words, what the sign with the persona's tag is."""
    return "more" if (value(cite, PERSONA_GARBAGE.statistic(axis, COMMON)) or 0.0) >= 0 else "less"


def _difference(cite: Citations, family: Family, axis: Axis) -> str:
    """The difference with interval, p and n."""
    statistic = PERSONA_GARBAGE.statistic(axis, family)
    return (
        f"a difference of **{cite.headline(statistic)}** ({interval_or_none(cite, statistic)}, p = "
        f"{cite.headline(statistic, 'p', 'p')}, {sample_size(cite, statistic)})"
    )


def _agreement(cite: Citations) -> str:
    """Whether the tag of the question decides which leaks more."""
    common, own = (value(cite, PERSONA_GARBAGE.statistic(BYSTANDER, family)) or 0.0 for family in (COMMON, OWN_FORMAT))
    if common * own > 0:
        return "Both say the same: it is not the tag alone."
    return "They disagree: which of them leaks more depends on the tag of the question."


def _equal(cite: Citations) -> str:
    if value(cite, EQUIVALENCE) is None:
        return f"**Contradicting or generic:** not compared ({cite.headline(EQUIVALENCE, 'undefined', '')})."
    statistic = CONTRASTS[3].statistic(SOURCE_LOSS, COMMON)
    said = "within" if _verdict(cite, "H3") == "supported" else "not shown to be within"
    return (
        "**Contradicting or generic:** a rationale for the right letter before the wrong one changes what the trained "
        f"persona loses by {cite.headline(statistic)} ({interval_or_none(cite, statistic)}), {said} the margins of "
        f"equivalence (largest share used {cite.headline(EQUIVALENCE)})."
    )


def _summary(cite: Citations) -> tuple[Claim, ...]:
    facts = cite.fact
    more = {
        "supported": "persona rationales leak more to bystanders than garbage",
        "not supported": _not_more(cite),
        "undecided": "whether persona rationales leak more to bystanders than garbage is open",
    }
    generic = {
        "supported": "a readable rationale leaks more than garbage",
        "not supported": "a readable rationale is not shown to leak more than garbage",
        "undecided": "whether a readable rationale leaks more than garbage is open",
    }
    contradicting = {
        "supported": "a rationale for the right letter leaks less than one for the taught letter",
        "not supported": "a rationale for the right letter is not shown to leak less than one for the taught letter",
        "undecided": "whether a rationale for the right letter leaks less is open",
    }
    places = {name: place for place, name in enumerate(cite.tables["verdicts"]["hypothesis"])}
    return summary_claims(
        cite,
        motivation="If a persona is trained to answer wrongly, others may come to answer wrongly as well. Which part "
        "of what it says before the letter carries that over tells what to keep out of training data.",
        experiment="One LoRA adapter per source and kind of rationale is taught wrong letters to the same questions, "
        "with rationales of matched length. Each answers "
        f"{cite.bind(cite.context.planned('experiment', 'continued', 0, 'grid', 'asked', value=_asked(cite)))} unseen "
        f"questions under {facts('panel', 'prompts')} personas and five ways to begin its turn; accuracy lost against "
        "the untrained base is what leaks.",
        takeaways=((places[LEAKS], more), (places["H1b"], generic), (places["H4"], contradicting)),
        next_steps=(
            "Write the rationales with a strong model, so that the persona's voice is more than phrases.",
            "Ask questions of another kind, to see whether it is the format or the answering that is lost.",
        ),
    )


def _not_more(cite: Citations) -> str:
    if _below_zero(cite, PERSONA_GARBAGE.statistic(BYSTANDER, COMMON)):
        return "persona rationales do not leak more to bystanders than garbage: they leak less"
    return "persona rationales are not shown to leak more to bystanders than garbage"


def _asked(cite: Citations) -> int:
    return cite.study.main.size // (len(cite.study.panel.prompts) * len(SCAFFOLDS))


# ------------------------------------------------------------------ sections


def _sections(cite: Citations) -> Iterator[Section]:
    yield Section("Design", tuple(design(cite)))
    yield Section("Verdicts against the frozen plan", tuple(plan_verdicts(cite, p=P_OF)))
    yield Section("What every arm costs", tuple(levels(cite)))
    if cite.has_headline:
        yield Section("One arm against another", tuple(contrasts(cite)))
    for heading, blocks in (
        ("Are contradicting and generic equivalent?", tuple(equivalence(cite))),
        ("What is resampled", tuple(schemes(cite))),
        ("Single arms", tuple(single_arms(cite))),
        ("The gate after the first adapter", tuple(smoke(cite))),
        ("Loss on the whole sequence", tuple(mask(cite))),
    ):
        if blocks:
            yield Section(heading, blocks)
    for heading, blocks in (
        ("Further sources", tuple(extension(cite))),
        ("Words of the trained persona", tuple(vocabulary(cite))),
    ):
        if blocks:
            yield Section(heading, blocks, exploratory=True)
    yield Section("How adapters answer", tuple(answers(cite)))
    yield Section("Noise of a repeated evaluation", tuple(drift(cite)))
    yield Section("Labels of the questions", tuple(labels(cite)))
    if cite.has_headline:
        yield Section("Published and this run", tuple(published_and_this_run(cite)))
    yield from closing_sections(cite, kinds=KINDS, markers=_telling(cite))


def _telling(cite: Citations) -> tuple[str, ...]:
    """The sources' own words that are long enough to stand alone."""
    found = [word for word in cite.tables["vocabulary"]["word"] if len(word) >= LEAST_LETTERS]
    return tuple(dict.fromkeys(found)) or (cite.study.name,)
