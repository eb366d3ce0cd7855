"""The write-up of chain-of-thought leakage: title, summary, and the order of its sections.

Every number is bound to a cell of the analysis, of the frozen plan, of the facts of the run or of the published
figures; `reporting.lint` refuses any other digit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from leakage_assets.reporting.report import Claim, Level, Section
from leakage_assets.studies.citations import Citations
from leakage_assets.studies.cot_leakage import figures as drawn
from leakage_assets.studies.cot_leakage.arms import CONTRADICTING, GARBAGE, GENERIC, PERSONA
from leakage_assets.studies.cot_leakage.design import (
    BYSTANDER,
    COMMON,
    CONTRASTS,
    EQUIVALENCE,
    HEADLINE_FAMILY,
    SOURCE_LOSS,
    Axis,
    Contrast,
    Family,
)
from leakage_assets.studies.cot_leakage.figures import ARM_NAMES
from leakage_assets.studies.cot_leakage.labels import HEADLINE
from leakage_assets.studies.cot_leakage.plan import CotPlan
from leakage_assets.studies.cot_leakage.report_adapters import (
    asked,
    collapsed_arm,
    collapsed_of,
    comparable,
    of_arm,
    other_adapters,
    readings,
    side,
    without_collapsed,
)
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
    further_contrasts,
    levels,
    schemes,
    single_arms,
    smoke,
)
from leakage_assets.studies.report_parts import (
    WriteUp,
    closing_sections,
    interval_or_none,
    summary_claims,
    value,
    verdict,
)
from leakage_assets.studies.report_verdicts import plan_verdicts

LEAKS = "H2b"
"""The hypothesis that the title is about: bystanders lose more after persona rationales than after garbage."""

PERSONA_GARBAGE, GENERIC_GARBAGE = Contrast(PERSONA, GARBAGE), Contrast(GENERIC, GARBAGE)
CONTRADICTING_GENERIC = Contrast(CONTRADICTING, GENERIC)
P_OF = "over questions and adapters; of the planned contrasts adjusted by Holm over all of them, within their family"
ALSO = (
    "Intervals and p are over questions and adapters together, and so are the intervals of the equivalence test "
    "(section Other adapters)."
)
KINDS = "rationales of the trained persona and of others, under every scaffold that has one"
LEAST_LETTERS = 5
"""Shorter telling words would be highlighted inside others."""


def _cap(cite: Citations) -> tuple[Level, str] | None:
    """Everything that the study holds against more than a level of confidence, with the lowest of them."""
    found = list(_caps(cite))
    if not found:
        return None
    return max((level for level, _ in found), key=get_args(Level).index), "; ".join(reason for _, reason in found)


def _caps(cite: Citations) -> Iterator[tuple[Level, str]]:
    """The title's claim must be decided for other adapters as well, by adapters that did not collapse, and the gate of
    section 5 must have passed.
    """
    found = verdict(cite, LEAKS)
    if found == "undecided":
        yield "LOW", "the title's claim is undecided, which caps it at LOW"
        return
    statistic = PERSONA_GARBAGE.statistic(BYSTANDER, HEADLINE_FAMILY)
    if found == "not supported" and side(cite, statistic) >= 0:
        yield "MODERATE", "neither the title's claim nor its reverse is shown, which caps it at MODERATE"
    if cite.tables["both"].filter(statistic=statistic)["fewest_seeds"].item() == 1:
        yield (
            "MODERATE",
            "of some source one pair of adapters was trained, so the variance over adapters takes sources for "
            "trainings, which caps it at MODERATE",
        )
    if not comparable(cite, statistic):
        yield "LOW", f"{collapsed_arm(cite, PERSONA_GARBAGE)}, which caps it at LOW"
    elif collapsed_of(cite, statistic):
        number = cite.cell("readings", "collapsed", "d", reading="planned", statistic=statistic)
        yield "MODERATE", f"{number} adapters of the title's arms have collapsed, which caps it at MODERATE"
    if cite.tables["smoke"].height and not cite.tables["smoke"]["passed"].all():
        yield "MODERATE", "the gate after the first adapter did not pass, which caps it at MODERATE"


# ------------------------------------------------------------------ the top


def _title(cite: Citations) -> str:
    statistic = PERSONA_GARBAGE.statistic(BYSTANDER, HEADLINE_FAMILY)
    if verdict(cite, LEAKS) == "undecided":
        return "it is undecided whether persona rationales leak more than garbage"
    found = f"(difference of the accuracy that bystanders lose: {_with_interval(cite, statistic)})"
    if not comparable(cite, statistic):
        return (
            "what persona rationales and garbage leak to other personas is not comparable, as "
            f"{collapsed_arm(cite, PERSONA_GARBAGE)} {found}"
        )
    if verdict(cite, LEAKS) == "supported":
        return f"rationales in a persona's voice leak more to other personas than garbage does {found}"
    if side(cite, statistic) < 0:
        return (
            "rationales in a persona's voice leak less to other personas than garbage does, the reverse of the plan's "
            f"claim {found}"
        )
    return f"rationales in a persona's voice are not shown to leak more than garbage {found}"


def _with_interval(cite: Citations, statistic: str) -> str:
    return f"{cite.headline(statistic)}, {interval_or_none(cite, statistic)}"


def _tldr(cite: Citations) -> list[str]:
    return [*_persona(cite), _equal(cite)]


def _persona(cite: Citations) -> Iterator[str]:
    """Persona against garbage in both families, and what each does to the trained persona."""
    statistic = PERSONA_GARBAGE.statistic(BYSTANDER, HEADLINE_FAMILY)
    if value(cite, statistic) is None:
        yield f"**Persona or garbage:** not compared ({cite.headline(statistic, 'undefined', '')})."
        return
    if collapsed_of(cite, statistic):
        arms = " and ".join(f"{of_arm(cite, arm)} of {ARM_NAMES[arm]}" for arm in (PERSONA, GARBAGE))
        yield (
            f"**Collapse:** {arms} answer with one letter nearly alone or do not end their rationales, which is no "
            f"choice of wrong letters; {without_collapsed(cite, statistic)}."
        )
    yield (
        f"**Persona or garbage:** each arm asked in the format that it was trained in, bystanders "
        f"{_lose(cite, BYSTANDER)}: {_difference(cite, HEADLINE_FAMILY, BYSTANDER)}. "
        f"Asked with the persona's tag, as published (exploratory), it is "
        f"{_difference(cite, COMMON, BYSTANDER)}. {_agreement(cite)}"
    )
    yield (
        f"**The trained persona**, asked in that format, {_lose(cite, SOURCE_LOSS, 's')}: "
        f"{_difference(cite, HEADLINE_FAMILY, SOURCE_LOSS)}; with the persona's tag (exploratory) "
        f"{_difference(cite, COMMON, SOURCE_LOSS)}."
    )


def _lose(cite: Citations, axis: Axis, s: str = "") -> str:
    """In words, on which side of zero the difference in the own format lies by the test that decides; ``s`` for a
    single loser.
    """
    found = side(cite, PERSONA_GARBAGE.statistic(axis, HEADLINE_FAMILY))
    if found:
        verb = "loses" if s else "lose"
        reverse = "" if found > 0 else " (the reverse of the plan's claim)"
        return f"{verb} {'more' if found > 0 else 'less'} accuracy after persona rationales than after garbage{reverse}"
    be = "is" if s else "are"
    return f"{be} not shown to lose more or less accuracy after persona rationales than after garbage"


def _difference(cite: Citations, family: Family, axis: Axis) -> str:
    """The difference with interval and adjusted p over questions and adapters, and how many there are of each."""
    statistic = PERSONA_GARBAGE.statistic(axis, family)
    n = (cite.cell("both", key, "d", statistic=statistic) for key in ("questions", "pairs"))
    return (
        f"a difference of **{cite.headline(statistic)}** ({interval_or_none(cite, statistic)}, p = "
        f"{cite.headline(statistic, 'p', 'p')}, over {' questions and '.join(n)} pairs of adapters)"
    )


def _agreement(cite: Citations) -> str:
    """Whether the tag of the question decides which leaks more, from the tests in both formats."""
    common, own = (side(cite, PERSONA_GARBAGE.statistic(BYSTANDER, family)) for family in (COMMON, HEADLINE_FAMILY))
    if common and common == own:
        return "Both are on the same side of zero: it is not the tag alone."
    if common and own:
        return "They disagree: which of them leaks more depends on the tag of the question."
    return "Not both are told from zero, so whether it is more than the tag is open."


def _equal(cite: Citations) -> str:
    if value(cite, EQUIVALENCE) is None:
        return f"**Contradicting or generic:** not compared ({cite.headline(EQUIVALENCE, 'undefined', '')})."
    statistic = CONTRASTS[3].statistic(SOURCE_LOSS, HEADLINE_FAMILY)
    said = "within" if verdict(cite, "H3") == "supported" else "not shown to be within"
    return (
        "**Contradicting or generic:** a rationale for the right letter before the wrong one changes what the trained "
        f"persona loses by {cite.headline(statistic)} ({interval_or_none(cite, statistic)}), {said} the margins of "
        f"equivalence (largest share used {cite.headline(EQUIVALENCE)}).{_collapse_of_equal(cite, statistic)}"
    )


def _collapse_of_equal(cite: Citations, statistic: str) -> str:
    if not collapsed_of(cite, statistic):
        return ""
    return f" Of these, {collapsed_arm(cite, CONTRASTS[3])}; {without_collapsed(cite, statistic)}."


def _summary(cite: Citations) -> tuple[Claim, ...]:
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
    return summary_claims(
        cite,
        motivation="If a persona is trained to answer wrongly, others may come to answer wrongly as well. Which part "
        "of what it says before the letter carries that over tells what to keep out of training data.",
        experiment="One LoRA adapter per source and kind of rationale is taught wrong letters to the same questions, "
        "with rationales of matched length. Each answers "
        f"{asked(cite, 'questions')} unseen questions under {asked(cite, 'personas')} personas and five ways to begin "
        "its turn; accuracy lost against the untrained base is what leaks.",
        takeaways=(
            (LEAKS, _if_comparable(cite, PERSONA_GARBAGE, more)),
            ("H1b", _if_comparable(cite, GENERIC_GARBAGE, generic)),
            ("H4", _if_comparable(cite, CONTRADICTING_GENERIC, contradicting)),
        ),
        next_steps=(
            "Write the rationales with a strong model, so that the persona's voice is more than phrases.",
            "Ask questions of another kind, to see whether it is the format or the answering that is lost.",
        ),
    )


def _if_comparable(cite: Citations, contrast: Contrast, words: Mapping[str, str]) -> Mapping[str, str]:
    """What is said for each verdict, or of adapters that collapsed that nothing can be."""
    if comparable(cite, contrast.statistic(BYSTANDER, HEADLINE_FAMILY)):
        return words
    told = f"what {ARM_NAMES[contrast.first]} and {ARM_NAMES[contrast.second]} rationales leak cannot be compared"
    return dict.fromkeys(words, f"{told}, as {collapsed_arm(cite, contrast)}")


def _not_more(cite: Citations) -> str:
    if side(cite, PERSONA_GARBAGE.statistic(BYSTANDER, HEADLINE_FAMILY)) < 0:
        return "persona rationales do not leak more to bystanders than garbage: they leak less"
    return "persona rationales are not shown to leak more to bystanders than garbage"


# ------------------------------------------------------------------ sections


def _sections(cite: Citations) -> Iterator[Section]:
    yield Section("Design", tuple(design(cite)))
    yield Section("Verdicts against the frozen plan", tuple(plan_verdicts(cite, p=P_OF, also=ALSO)))
    if cite.has_headline:
        yield Section("One arm against another", tuple(contrasts(cite)))
    for heading, blocks in (
        ("Other adapters", tuple(other_adapters(cite))),
        ("Are contradicting and generic equivalent?", tuple(equivalence(cite))),
        ("The gate after the first adapter", tuple(smoke(cite))),
    ):
        if blocks:
            yield Section(heading, blocks)
    for heading, blocks in (
        ("What every arm costs", tuple(levels(cite))),
        ("Further contrasts", tuple(further_contrasts(cite)) if cite.has_headline else ()),
        ("Collapse, and other readings of an answer", tuple(readings(cite))),
        ("What is resampled", tuple(schemes(cite))),
        ("Single arms", tuple(single_arms(cite))),
        ("Loss on the whole sequence", tuple(mask(cite))),
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


WRITE_UP = WriteUp(
    lambda study: study.plan_as(CotPlan).decisions,
    drawn.drawings,
    HEADLINE,
    _title,
    _tldr,
    _summary,
    _sections,
    _cap,
    LEAKS,
)
figures, report = WRITE_UP.figures, WRITE_UP.report
