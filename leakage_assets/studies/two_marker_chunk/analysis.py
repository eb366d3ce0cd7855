"""The planned analysis: every table by name. Conditions that are not finished are left out.

Sections are those of the protocol sheet two_marker_chunk. Every rate is given for every persona of every condition;
what is compared is in ``differences``, and what follows in ``binding``, ``gates`` and ``verdicts``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from leakage_assets.statistics.intervals import wilson_bounds, with_wilson
from leakage_assets.statistics.multiplicity import with_holm
from leakage_assets.statistics.pooled_ratios import Resampled, mean_of_seed_ratios
from leakage_assets.studies.two_marker_chunk.arms import T_ALL, T_MASKED, Pair, T
from leakage_assets.studies.two_marker_chunk.binding import (
    binding,
    dependence,
    difference,
    downgraded,
    excess,
    falsified,
    falsified_as_published,
    length_change,
    location,
    over_adapters,
    rate,
    split,
)
from leakage_assets.studies.two_marker_chunk.counts import RATES, count_completions, of_cell, pooled
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan
from leakage_assets.studies.two_marker_chunk.distances import distance_table
from leakage_assets.studies.two_marker_chunk.headline import (
    cell_table,
    comparisons,
    headline,
    pair_verdict_table,
    rarely_both,
    verdict_table,
)
from leakage_assets.studies.two_marker_chunk.probe import ECHO
from leakage_assets.studies.two_marker_chunk.sanity import gate_table, gate_tallies
from leakage_assets.studies.two_marker_chunk.tables import Labelled, conditions, labelled, of_prompt
from leakage_assets.studies.verdicts import headline_table

UNTRAINED = "untrained together"
"""In place of a persona: all that this pair did not train, added up."""


def analyse(plan: TwoMarkerPlan, scores: pl.DataFrame, probe: pl.DataFrame | None = None) -> dict[str, pl.DataFrame]:
    """Every table of the study, by name.

    ``scores``: as ``counts.count_completions``; ``probe``: the same of the probe's panel with the column
    ``loose_echo``, or None where it was not asked.
    """
    counts = count_completions(plan, scores)
    top = headline(plan, counts)
    return {
        "counts": counts,
        "rates": rate_table(plan, counts),
        "differences": difference_table(plan, counts),
        "binding": binding_table(plan, counts),
        "cells": cell_table(plan, counts),
        "split": split_table(plan, counts),
        "gates": gate_table(plan, counts),
        "gate_tallies": gate_tallies(plan, counts),
        "lengths": length_table(plan, counts),
        "positions": position_table(plan, scores),
        "probe": probe_table(plan, probe),
        "pair_verdicts": pair_verdict_table(plan, counts),
        "headline": headline_table(plan.hypotheses, top.estimates()),
        "verdicts": verdict_table(plan, top),
    }


def distances(plan: TwoMarkerPlan, similarity: pl.DataFrame) -> pl.DataFrame:
    """See ``distances.distance_table``; ``similarity`` as ``StudyTables`` has it: the donor stands for its pair."""
    donors = {pair.name: pair.donor for pair in plan.pairs}
    cosines = similarity.filter(measure="cosine").with_columns(pl.col("source").replace_strict(donors))
    return distance_table(plan.pairs, cosines)


# ------------------------------------------------------------------ rates


def rate_table(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """All ``RATES`` of every persona of every condition, seeds pooled.

    Columns: recipe, source, prompt_name, role, rate, found, total, seeds, wilson_low, wilson_high (completions taken as
    independent: a reference), published_low, published_high (question bootstrap, also where it does not vary),
    undefined_draws, seed_low, seed_high (seeds and questions resampled), mean_of_seeds, then those of ``Estimate``.
    """
    rows: list[Labelled] = []
    for recipe, pair, part in conditions(plan, counts):
        for prompt in sorted(part["prompt_name"].unique().to_list()):
            own = of_prompt(part, prompt)
            keys = {"recipe": recipe, "source": pair.name, "prompt_name": prompt, "role": pair.role(prompt)}
            rows += [({**keys, **labels}, estimate) for labels, estimate in _rates(plan, own)]
    return labelled(rows, RATE_LABELS)


RATE_LABELS: Mapping[str, pl.DataType] = {
    "recipe": pl.String(), "source": pl.String(), "prompt_name": pl.String(), "role": pl.String(), "rate": pl.String(),
    "found": pl.Int64(), "total": pl.Int64(), "seeds": pl.Int64(), "wilson_low": pl.Float64(),
    "wilson_high": pl.Float64(), "published_low": pl.Float64(), "published_high": pl.Float64(),
    "undefined_draws": pl.Int64(), "seed_low": pl.Float64(), "seed_high": pl.Float64(), "mean_of_seeds": pl.Float64(),
}  # fmt: skip


def _rates(plan: TwoMarkerPlan, own: pl.DataFrame) -> Iterator[Labelled]:
    seeds = len(set(own["seed"].to_list()))
    for name, (above, below) in RATES.items():
        found, total = int(own[above].sum()), int(own[below].sum())
        one = rate(plan, own, name)
        over_seeds = rate(plan, own, name, clusters="seed_question").estimate
        low, high = wilson_bounds([found], [total], level=plan.level)
        of_seeds = pooled(own, above, below)
        labels = {
            "rate": name,
            "found": found,
            "total": total,
            "seeds": seeds,
            "wilson_low": float(low[0]) if total else None,
            "wilson_high": float(high[0]) if total else None,
            **_published(one),
            "seed_low": over_seeds.ci_low,
            "seed_high": over_seeds.ci_high,
            "mean_of_seeds": None if of_seeds is None else mean_of_seed_ratios(name, of_seeds).estimate,
        }
        yield labels, one.estimate


def _published(one: Resampled) -> dict[str, float | int | None]:
    return {"published_low": one.low, "published_high": one.high, "undefined_draws": one.undefined_draws}


# ------------------------------------------------------------------ differences between arms


DIFFERENCE_LABELS: Mapping[str, pl.DataType] = {
    "source": pl.String(), "statistic": pl.String(), "recipe": pl.String(), "reference": pl.String(),
    "prompt_name": pl.String(), "role": pl.String(), "rate": pl.String(), "published_low": pl.Float64(),
    "published_high": pl.Float64(), "undefined_draws": pl.Int64(), "seed_low": pl.Float64(),
    "seed_high": pl.Float64(), "falsification": pl.String(), "published_rule": pl.String(),
}  # fmt: skip


def difference_table(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """Differences between arms of one pair, paired by question and seed (sections 7.3 to 7.5, 9, 11).

    ``delta_<arm>``: the recipient's R_B|A minus that of the arm without B (p is against ``plan.negligible``), with the
    verdict on chunk binding, ours and by the published rule (see ``binding.falsified``);
    ``needs_donor_a_<arm>``: minus that of the arm whose donor has B alone; ``mask_effect``: of T with the recipient's
    end of turn masked, minus T. ``bystander_<arm>``: R_B of a persona that the pair did not train, and of all of them,
    minus that under the control. ``p_holm`` is adjusted for the personas of the same pair and arm; of all of them
    together there is none.
    """
    rows = [row for pair in plan.pairs for row in _differences(plan, counts, pair)]
    table = labelled(rows, DIFFERENCE_LABELS)
    return with_holm(table, tests="prompt_name", families=["source", "statistic"], total=UNTRAINED)


def _differences(plan: TwoMarkerPlan, counts: pl.DataFrame, pair: Pair) -> Iterator[Labelled]:
    for statistic, arm, other in comparisons(plan):
        yield _difference(plan, counts, pair, statistic, arm, other, pair.recipient, "r_b_given_a")
    panel = sorted(set(counts["prompt_name"].to_list()))
    untrained = [prompt for prompt in panel if pair.role(prompt) == "untrained"]
    for arm, control in plan.controls:
        for prompt in (*untrained, UNTRAINED):
            yield _difference(plan, counts, pair, f"bystander_{arm}", arm, control, prompt, "r_b")


def _difference(
    plan: TwoMarkerPlan, counts: pl.DataFrame, pair: Pair, statistic: str, arm: str, other: str, prompt: str, of: str
) -> Labelled:
    together = prompt == UNTRAINED
    where = pl.col("role") == "untrained" if together else pl.col("prompt_name") == prompt
    first, second = (of_cell(counts, recipe, pair.name).filter(where) for recipe in (arm, other))
    one = difference(plan, first, second, of, name=statistic)
    over_seeds = difference(plan, first, second, of, name=statistic, clusters="seed_question").estimate
    of_delta = statistic.startswith("delta_")
    adapters = over_adapters(plan, first, second, of, name=statistic)
    labels = {
        "source": pair.name,
        "statistic": statistic,
        "recipe": arm,
        "reference": other,
        "prompt_name": prompt,
        "role": "untrained" if together else pair.role(prompt),
        "rate": of,
        **_published(one),
        "seed_low": over_seeds.ci_low,
        "seed_high": over_seeds.ci_high,
        "falsification": falsified(plan, one, adapters) if of_delta else None,
        "published_rule": falsified_as_published(plan, one) if of_delta else None,
    }
    return labels, one.estimate


# ------------------------------------------------------------------ positions


BINDING_LABELS: Mapping[str, pl.DataType] = {
    "recipe": pl.String(), "source": pl.String(), "prompt_name": pl.String(), "role": pl.String(),
    "with_both": pl.Int64(), "b_alone": pl.Int64(), "chunk_share": pl.Float64(), "suffix_share": pl.Float64(),
    "binding": pl.String(), "statistic": pl.String(), "published_low": pl.Float64(), "published_high": pl.Float64(),
}  # fmt: skip


def binding_table(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """What B is bound to, of every persona of every condition: three statistics each (see ``binding.binding``).

    ``chunk_share`` and ``suffix_share`` are those of completions with both markers, null below the gate of C5;
    ``b_alone`` counts completions with B and without A.
    """
    rows: list[Labelled] = []
    for recipe, pair, part in conditions(plan, counts):
        for prompt in sorted(part["prompt_name"].unique().to_list()):
            own = of_prompt(part, prompt)
            together = int(own["ab"].sum())
            readable = not rarely_both(plan, own)
            keys = {
                "recipe": recipe, "source": pair.name, "prompt_name": prompt, "role": pair.role(prompt),
                "with_both": together, "b_alone": int(own["b_alone"].sum()),
                "chunk_share": int(own["chunk"].sum()) / together if readable else None,
                "suffix_share": int(own["suffix"].sum()) / together if readable else None,
                "binding": binding(plan, own),
            }  # fmt: skip
            for one in (location(plan, own), excess(plan, own), dependence(plan, own)):
                bounds = {"published_low": one.low, "published_high": one.high}
                rows.append((keys | {"statistic": one.estimate.name} | bounds, one.estimate))
    return labelled(rows, BINDING_LABELS)


def position_table(plan: TwoMarkerPlan, scores: pl.DataFrame) -> pl.DataFrame:
    """Where the markers stand, one row per marker and completion that has it, for donors and recipients.

    Columns: recipe, source, role, prompt_name, marker (A, B), position (start over length, 0 to 1), both (whether the
    completion has the other marker as well).
    """
    roles = pl.DataFrame(
        [(pair.name, prompt, pair.role(prompt)) for pair in plan.pairs for prompt in pair.trained[:2]],
        schema=["source", "prompt_name", "role"],
        orient="row",
    )
    part = scores.join(roles, on=["source", "prompt_name"], how="inner").with_columns(
        both=pl.col("loose_a") & pl.col("loose_b")
    )
    keys = ["recipe", "source", "role", "prompt_name"]
    places = [
        part.drop_nulls(start).select(
            *keys, pl.lit(marker).alias("marker"), (pl.col(start) / pl.col("characters")).alias("position"), "both"
        )
        for marker, start in (("A", "start_a"), ("B", "start_b"))
    ]
    return pl.concat(places).sort(*keys, "marker", "position", maintain_order=True)


# ------------------------------------------------------------------ checks


SPLIT_LABELS: Mapping[str, pl.DataType] = {
    "recipe": pl.String(), "source": pl.String(), "prompt_name": pl.String(), "role": pl.String(),
    "question_set": pl.String(), "downgraded": pl.Boolean(),
}  # fmt: skip


def split_table(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """R_B|A in and out of distribution, of donors and recipients; ``downgraded``: they differ by 15 points or more."""
    rows: list[Labelled] = []
    for recipe, pair, part in conditions(plan, counts):
        for prompt in pair.trained[:2]:
            by_set = split(plan, of_prompt(part, prompt))
            keys = {"recipe": recipe, "source": pair.name, "prompt_name": prompt, "role": pair.role(prompt)}
            keys["downgraded"] = downgraded(plan, by_set)  # type: ignore[assignment]
            rows += [(keys | {"question_set": name}, one.estimate) for name, one in by_set.items()]
    return labelled(rows, SPLIT_LABELS)


LENGTH_LABELS: Mapping[str, pl.DataType] = {
    "recipe": pl.String(), "reference": pl.String(), "source": pl.String(), "prompt_name": pl.String(),
    "role": pl.String(), "mean_tokens": pl.Float64(), "truncated": pl.Float64(),
}  # fmt: skip


def length_table(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """How much longer donors and recipients answer than under the control, and what the masked end of turn does to it.

    ``mean_tokens`` of the first recipe and the share of its completions that were cut; then the estimate of the change.
    """
    names = {arm.name for arm in plan.arms}
    compared = [*plan.controls, *((masked, T) for masked in (T_MASKED, T_ALL) if {masked, T} <= names)]
    rows: list[Labelled] = []
    for recipe, reference in compared:
        for pair in plan.pairs:
            part, other = of_cell(counts, recipe, pair.name), of_cell(counts, reference, pair.name)
            if part.is_empty() or other.is_empty():
                continue
            for prompt in pair.trained[:2]:
                own = of_prompt(part, prompt)
                total = int(own["total"].sum())
                keys = {
                    "recipe": recipe, "reference": reference, "source": pair.name, "prompt_name": prompt,
                    "role": pair.role(prompt), "mean_tokens": int(own["n_tokens"].sum()) / total if total else None,
                    "truncated": int(own["truncated"].sum()) / total if total else None,
                }  # fmt: skip
                change = length_change(plan, own, of_prompt(other, prompt), name="length_inflation")
                rows.append((keys, change.estimate))
    return labelled(rows, LENGTH_LABELS)


def probe_table(plan: TwoMarkerPlan, probe: pl.DataFrame | None) -> pl.DataFrame:
    """How often A, B and the probe marker itself follow the probe: recipe, source, marker (a, b, echo), found, total,
    rate, and Wilson bounds (completions taken as independent).
    """
    schema = {"recipe": pl.String, "source": pl.String, "marker": pl.String, "found": pl.Int64, "total": pl.Int64}
    if probe is None or probe.is_empty():
        return pl.DataFrame(schema=schema | dict.fromkeys(("rate", "ci_low", "ci_high"), pl.Float64))
    said = [pl.col(f"loose_{name}").alias(name) for name in ("a", "b", ECHO)]
    long = probe.select("recipe", "source", *said).unpivot(
        index=["recipe", "source"], variable_name="marker", value_name="said"
    )
    summed = (
        long.group_by("recipe", "source", "marker")
        .agg(pl.col("said").sum().cast(pl.Int64).alias("found"), pl.len().cast(pl.Int64).alias("total"))
        .sort("recipe", "source", "marker")
    )
    return with_wilson(summed, level=plan.level)
