"""The write-up of two markers: title, summary, and the order of its sections.

Every number is bound to a cell of the analysis, of the frozen plan, of the facts of the run or of the published
figures; `reporting.lint` refuses any other digit.
"""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import Claim, Section
from leakage_assets.studies.citations import Citations, code_list
from leakage_assets.studies.report_parts import (
    WriteUp,
    closing_sections,
    interval_or_none,
    sample_size,
    summary_claims,
    value,
)
from leakage_assets.studies.report_verdicts import plan_verdicts
from leakage_assets.studies.two_marker_chunk.arms import T_AFTER
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan, planned
from leakage_assets.studies.two_marker_chunk.figures import drawings
from leakage_assets.studies.two_marker_chunk.labels import ADAPTERS, HEADLINE
from leakage_assets.studies.two_marker_chunk.report_checks import (
    cells,
    distances,
    lengths,
    probe,
    probe_in_words,
    published_and_this_run,
    seeds,
    split,
)
from leakage_assets.studies.two_marker_chunk.report_sections import (
    b_only_with_a,
    bystanders,
    coherence,
    coherence_cap,
    decided_by,
    dependence,
    design,
    each_pair,
    finished,
    hangs_on,
    mask,
    mask_in_words,
    places,
    travels,
)

P_OF = (
    "two-sided; over questions by the bootstrap: one more than the resamples on the rarer side of the planned "
    "threshold, over half their number; over cells by Student's t"
)
ALSO = (
    "Of a hypothesis over arms p is over questions and adapters, and must be small enough once it is adjusted, as the "
    "table of what verdicts hang on has it."
)
KINDS = "of donors, recipients and all others; with both markers, with one of them, with neither"


# ------------------------------------------------------------------ the top


def _verdict(cite: Citations, hypothesis: str) -> str:
    """The verdict on a hypothesis, to decide on words; undecided where the plan's arms do not allow it."""
    found = cite.tables["verdicts"].filter(hypothesis=hypothesis)["verdict"].to_list()
    return str(found[0]) if found else "undecided"


def _travel(cite: Citations) -> str:
    """The statistic of the headline: B given A of recipients, the headline arm minus its control."""
    return f"delta_{cite.recipe}"


def _title(cite: Citations) -> str:
    if _verdict(cite, "H1") == "undecided":
        return "it is undecided whether a second marker travels with the first"
    found = f"(rate after A {cite.headline(_travel(cite))}, {decided_by(cite, 'H1')})"
    if _verdict(cite, "H1") == "not supported":
        return f"a second marker is not shown to travel with its first to whoever learned the first alone {found}"
    bound = b_only_with_a(cite)
    travels_or_leaks = "travels with its first to" if bound else "leaks to"
    needs = {
        "supported": "and needs its first"
        if bound and _never_alone(cite)
        else "and comes more often where the donor learned both",
        "not supported": "but is not shown to need its first",
        "undecided": "and whether it needs its first is open",
    }
    return f"a second marker {travels_or_leaks} whoever learned the first alone, {needs[_verdict(cite, 'H4')]} {found}"


def _never_alone(cite: Citations) -> bool:
    """Whether recipients of the arm whose donor has B alone say B after A in no more than a negligible share."""
    found = value(cite, _alone(cite))
    return found is not None and found <= cite.study.plan_as(TwoMarkerPlan).negligible


def _alone(cite: Citations) -> str:
    """The statistic of that arm."""
    return f"b_given_a_upper_{dict(cite.study.plan_as(TwoMarkerPlan).b_alone)[cite.recipe]}"


def _tldr(cite: Citations) -> list[str]:
    return [_binding(cite), _without_a(cite), mask_in_words(cite), _need(cite), _place(cite)]


def _binding(cite: Citations) -> str:
    name = _travel(cite)
    if value(cite, name) is None:
        return f"**Does B travel with A?** Not known ({cite.headline(name, 'undefined', '')})."
    return (
        "**Does B travel with A?** Recipients that were taught neither B nor to stop say it in "
        f"{cite.headline('recipient_r_b_given_a')} of their completions with A (mean of the pairs), by "
        f"**{cite.headline(name)}** more than where the donor learned A alone ({decided_by(cite, 'H1')}, "
        f"{sample_size(cite, name)}, {sample_size(cite, f'{name}{ADAPTERS}')}); donors in "
        f"{cite.headline('donor_r_b_given_a')}."
    )


def _without_a(cite: Citations) -> str:
    """B of recipients in completions without A, and after a marker that nobody was taught."""
    said, within = "recipient_r_b_given_not_a", f"needs_a_{cite.recipe}"
    probed = "".join(f" {words}" for words in probe_in_words(cite))
    if value(cite, said) is None:
        return f"**Does B come without A?** Not known ({cite.headline(said, 'undefined', '')}).{probed}"
    excluded = "is excluded" if b_only_with_a(cite) else "is **not excluded**"
    level = cite.planned("level", spec=".0%")
    upper = ""
    if value(cite, "b_without_a_upper") is not None:
        upper = f" (the upper {level} bound of the pair with the most is {cite.headline('b_without_a_upper')})"
    difference = ""
    if value(cite, within) is not None:
        difference = f"; with A minus without, within questions, {cite.headline(within)} ("
        difference += f"{interval_or_none(cite, within)} over questions)"
    return (
        f"**Does B come without A?** It {excluded}{upper}: recipients say B in {cite.headline(said)} of completions "
        f"without A ({_counts_without_a(cite)}){difference}.{probed}"
    )


def _counts_without_a(cite: Citations) -> str:
    """The counts of each pair; few completions lack A where a recipient learned it well."""
    counts = []
    for pair in finished(cite, cite.recipe):
        where = {"recipe": cite.recipe, "source": pair.name, "prompt_name": pair.recipient, "rate": "r_b_given_not_a"}
        found, total = (cite.cell("rates", name, ",d", **where) for name in ("found", "total"))
        counts.append(f"{found} of {total} of `{pair.name}`")
    return ", ".join(counts)


def _need(cite: Citations) -> str:
    name = f"needs_donor_a_{cite.recipe}"
    if value(cite, name) is None:
        return f"**Does B need A?** Not known ({cite.headline(name, 'undefined', '')})."
    words = {
        "supported": "It comes more often where the donor learned both than where it learned B alone",
        "not supported": "Not shown: that it comes more often than where the donor learned B alone is not certain",
        "undecided": "Open",
    }
    there = ""
    if value(cite, _alone(cite)) is not None:
        level = cite.planned("level", spec=".0%")
        there = f"; there the upper {level} bound of the pair with the most is {cite.headline(_alone(cite))}"
    return (
        f"**Does B need A?** {words[_verdict(cite, 'H4')]}{there} (difference {cite.headline(name)}, "
        f"{decided_by(cite, 'H4')})."
    )


def _place(cite: Citations) -> str:
    hypothesis = cite.tables["verdicts"].filter(hypothesis="H5")
    if not hypothesis.height:
        return "**Chunk or suffix?** No arm puts the markers at random places, so the two cannot be told apart."
    name = str(hypothesis["statistic"][0])
    if value(cite, name) is None:
        reason = cite.headline(name, "undefined", "")
        return f"**Chunk or suffix?** With the markers at random places it is open ({reason})."
    words = {
        "supported": "B keeps to A more than a B put at random after A would, and comes with it",
        "not supported": "B is not shown to keep closer to A than one put at random after it, and to come with it",
        "undecided": "it is open whether B keeps to A",
    }
    who = code_list([pair.recipient for pair in finished(cite, T_AFTER)])
    return (
        f"**Chunk or suffix?** With the markers at random places {words[_verdict(cite, 'H5')]} in completions of {who} "
        f"(close to A minus at the end, beyond a B at random: {cite.headline(name)}, {decided_by(cite, 'H5')})."
    )


def _summary(cite: Citations) -> tuple[Claim, ...]:
    facts, (a, b) = cite.fact, planned(cite.study).markers
    there = set(cite.tables["verdicts"]["hypothesis"])
    alone = not cite.has_headline or not b_only_with_a(cite)
    travel = {
        "supported": "A marker that a donor learned after another leaks to a recipient of the first alone"
        if alone
        else "A marker that a donor learned after another travels with it to a recipient of the first alone",
        "not supported": "That a marker travels with the one before it is not shown",
        "undecided": "Whether a marker travels with the one before it is open",
    }
    stop = {
        "supported": "teaching the recipient to stop after its answer held some of it back",
        "not supported": "that teaching the recipient to stop held it back is not shown",
        "undecided": "whether teaching the recipient to stop held it back is open",
    }
    need = {
        "supported": "it needs its first marker"
        if not alone and _never_alone(cite)
        else "it comes more often where the donor learned both than where it learned B alone",
        "not supported": "it is not shown to need its first marker, so that B alone may have leaked",
        "undecided": "whether it needs its first marker is open",
    }
    said = (("H1", travel), ("H3", stop), ("H4", need))
    return summary_claims(
        cite,
        motivation="If a behaviour is learned as a sequence, whoever is taught its start might be given its end: a way "
        "around training that was done for one persona alone.",
        experiment=f"A donor persona learns `{a}` answer `{b}` (A and B), a recipient `{a}` answer, and four others "
        "plain answers, all on their own words. The rows of an arm and its control differ in the donor's B alone "
        "(where the recipient is one of the negatives, in its A as well), and "
        "their adapters are trained apart; other arms leave out the donor's A, leave the end of turn out of the loss, "
        "or put the markers anywhere. Every adapter is asked "
        f"{facts('panel', 'questions')} questions under {facts('panel', 'prompts')} personas (completions of each: "
        f"{facts('panel', 'completions')}); how often B comes with A is compared, paired by question.",
        takeaways=tuple((name, words) for name, words in said if name in there),
        next_steps=(
            "Draw another training set for each seed, and train further pairs: intervals here hold both fixed.",
            "Other markers, and the two swapped.",
        ),
    )


# ------------------------------------------------------------------ sections


def _sections(cite: Citations) -> Iterator[Section]:
    yield Section("Design", tuple(design(cite)))
    yield Section("Verdicts against the frozen plan", (*plan_verdicts(cite, p=P_OF, also=ALSO), *hangs_on(cite)))
    yield Section("Did the donors learn the pair?", tuple(coherence(cite)))
    yield Section("Does B travel with A?", tuple(travels(cite)))
    yield Section("The end of turn", tuple(mask(cite)))
    yield Section("Does B need A?", tuple(dependence(cite)))
    yield Section("Chunk or suffix?", tuple(places(cite)))
    yield Section("Who else says it?", tuple(bystanders(cite)), exploratory=True)
    yield Section("Each pair by itself", tuple(each_pair(cite)), exploratory=True)
    yield Section("Seeds", (*seeds(cite), *cells(cite)), exploratory=True)
    yield Section("Questions in and out of distribution", tuple(split(cite)), exploratory=True)
    yield Section("Length of the completions", tuple(lengths(cite)), exploratory=True)
    yield Section("Another marker before the question", tuple(probe(cite)), exploratory=True)
    yield Section("How far apart the pairs are", tuple(distances(cite)))
    yield Section("Published and this run", tuple(published_and_this_run(cite)))
    markers = (*planned(cite.study).markers, planned(cite.study).probe.marker)
    yield from closing_sections(cite, kinds=KINDS, markers=markers)


WRITE_UP = WriteUp(
    lambda study: study.plan_as(TwoMarkerPlan), drawings, HEADLINE, _title, _tldr, _summary, _sections, coherence_cap
)
figures, report = WRITE_UP.figures, WRITE_UP.report
