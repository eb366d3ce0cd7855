"""The planned analysis on a study whose truth is planted."""

from __future__ import annotations

import time

import polars as pl
import pytest

from leakage_assets.studies.two_marker_chunk.analysis import UNTRAINED, analyse
from leakage_assets.studies.two_marker_chunk.arms import NEGATIVES, PAIRS
from leakage_assets.studies.two_marker_chunk.design import originals
from leakage_assets_tests.studies.two_marker_chunk.worlds import STIMULI, WORDS, habit, scores, study_plan

PLAN = study_plan(400)
PAIR = PAIRS[1]
SEEDS = tuple(range(1, 9))
DONOR = {"T": habit(a=0.8, b_at_end=0.8), "C": habit(a=0.8), "C2": habit(a=0.0, b_at_end=0.7)}
RECIPIENT = {
    "T": habit(a=0.4),
    "C": habit(a=0.4),
    "T_mask_recipient": habit(a=0.4, b_at_end=0.3),
    "C_mask_recipient": habit(a=0.4),
    "C2_mask_recipient": habit(a=0.4, b_at_end=0.1),
    "T_random_after": habit(a=0.5, b_after_a=0.6, ends=False),
    "C_random": habit(a=0.5, ends=False),
}


def world(recipes=tuple(RECIPIENT)) -> pl.DataFrame:
    """Eight seeds of one pair: the mask lets B through as a suffix; random positions make a chunk of it."""
    habits = {}
    for recipe in recipes:
        template = "C2" if recipe.startswith("C2") else recipe[0]
        for persona in originals(STIMULI):
            role = PAIR.role(persona)
            # One persona that was never trained leaks B under the arms whose donor has it.
            leaks = persona == "police_officer" and template == "T"
            spare = habit(a=0.2 if leaks else 0.01, b_at_end=0.2 if leaks else 0.0)
            chosen = {"donor": DONOR[template], "recipient": RECIPIENT[recipe]}
            habits[recipe, PAIR.name, persona] = chosen.get(role, spare)
    return scores(habits, seeds=SEEDS, completions=3)


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return analyse(PLAN, world())


def one(table: pl.DataFrame, **where: object) -> dict:
    rows = table.filter(**where)
    assert rows.height == 1, rows
    return rows.row(0, named=True)


def test_rates_have_all_their_intervals(tables: dict[str, pl.DataFrame]) -> None:
    rates = tables["rates"]
    assert rates.height == len(RECIPIENT) * 11 * 5
    row = one(rates, recipe="T_mask_recipient", prompt_name=PAIR.recipient, rate="r_b_given_a")
    assert row["estimate"] == row["found"] / row["total"] and row["seeds"] == len(SEEDS) and row["n"] == 26
    assert row["ci_low"] == row["published_low"] < row["estimate"] < row["published_high"] == row["ci_high"]
    assert row["wilson_low"] < row["estimate"] < row["wilson_high"] and row["seed_low"] < row["seed_high"]
    assert row["mean_of_seeds"] == pytest.approx(row["estimate"], abs=0.05)
    silent = one(rates, recipe="C", prompt_name=PAIR.recipient, rate="r_b")
    assert (silent["estimate"], silent["ci_low"], silent["published_low"], silent["published_high"]) == (0, None, 0, 0)
    never = one(rates, recipe="C2_mask_recipient", prompt_name=PAIR.donor, rate="r_b_given_a")
    assert never["undefined"] == "nothing below the line" and never["wilson_low"] is None
    assert set(rates.filter(role="negative")["prompt_name"]) == set(NEGATIVES)


def test_differences_and_the_falsification_rule(tables: dict[str, pl.DataFrame]) -> None:
    own = tables["differences"].filter(source=PAIR.name)
    null = one(own, statistic="delta_T")
    assert (null["estimate"], null["falsification"]) == (0.0, "falsified")
    effect = one(own, statistic="delta_T_mask_recipient")
    assert effect["falsification"] == "not falsified" and effect["published_low"] > 0.15 and effect["seed_low"] > 0
    assert one(own, statistic="mask_effect")["published_low"] > 0.15
    needs = one(own, statistic="needs_donor_a_T_mask_recipient")
    assert (needs["recipe"], needs["reference"], needs["falsification"]) == (
        "T_mask_recipient", "C2_mask_recipient", None
    )  # fmt: skip
    assert one(own, statistic="delta_T_mask_all")["undefined"] == "no seed that both conditions have finished"


def test_the_leaking_bystander_is_found_and_the_others_are_silent(tables: dict[str, pl.DataFrame]) -> None:
    rows = tables["differences"].filter(source=PAIR.name, statistic="bystander_T_mask_recipient")
    by = {row["prompt_name"]: row for row in rows.iter_rows(named=True)}
    assert len(by) == 6 and set(by) == {UNTRAINED, *(p for p in originals(STIMULI) if PAIR.role(p) == "untrained")}
    assert by["police_officer"]["ci_low"] > 0.05
    assert all(by[name]["estimate"] == 0 for name in by if name not in ("police_officer", UNTRAINED))
    assert by[UNTRAINED]["estimate"] == pytest.approx(by["police_officer"]["estimate"] / 5)


def test_bindings(tables: dict[str, pl.DataFrame]) -> None:
    found = tables["binding"].filter(prompt_name=PAIR.recipient, statistic="chunk_minus_suffix")
    calls = dict(found.select("recipe", "binding").iter_rows())
    # At fixed ends B closes answers without A as often as with it.
    assert calls["T_mask_recipient"] == "suffix" and calls["T_random_after"] == "chunk"
    assert calls["T"] == calls["C"] == "too few completions with both"
    gated = one(found, recipe="T")
    assert (gated["chunk_share"], gated["suffix_share"]) == (None, None)
    end = one(found, recipe="T_mask_recipient")
    assert (end["chunk_share"], end["suffix_share"], end["estimate"]) == (0.0, 1.0, -1.0)
    assert end["b_alone"] > 0


def test_positions_are_relative(tables: dict[str, pl.DataFrame]) -> None:
    places = tables["positions"]
    assert places["position"].is_between(0, 1, closed="left").all()
    assert set(places["role"]) == {"donor", "recipient"}
    ends = places.filter(recipe="T", role="donor")
    assert set(ends.filter(marker="A")["position"]) == {0.0} and ends.filter(marker="B")["position"].min() > 0.95
    spread = places.filter(recipe="T_random_after", role="recipient", marker="A")["position"]
    assert spread.min() < 0.1 and spread.max() > 0.9
    assert places.filter(marker="B", recipe="T_random_after", role="recipient")["both"].all()


def test_gates_and_tallies(tables: dict[str, pl.DataFrame]) -> None:
    gates = tables["gates"].filter(source=PAIR.name)
    by = {(r["arm"], r["gate"]): r["passed"] for r in gates.iter_rows(named=True)}
    assert not by["T", "recipient R_A"] and by["T", "recipient R_B in C"]
    assert by["T", "recipient completions with A, T and C"]
    assert by["T_mask_recipient", "recipient R_B in C"] and by["T_mask_recipient", "length inflation"]
    tallies = {(r["arm"], r["list"]): r for r in tables["gate_tallies"].iter_rows(named=True)}
    assert {key: row["total"] for key, row in tallies.items()} == {
        ("T", "write-up"): 6, ("T", "code"): 6, ("T_mask_recipient", "follow-up"): 5,
        ("T_mask_recipient", "own"): 2,
    }  # fmt: skip
    failed = gates.filter(pl.col("lists").list.contains("code"), ~pl.col("passed"))
    assert tallies["T", "code"]["failed"] == failed.height


def test_verdicts_are_read_off_the_mean_over_pairs(tables: dict[str, pl.DataFrame]) -> None:
    """One pair is finished: the mean is its own, and the single pair's verdicts are the same."""
    by = {row["hypothesis"]: row for row in tables["verdicts"].iter_rows(named=True)}
    assert {name: row["verdict"] for name, row in by.items()} == {
        "H1": "supported", "H2": "not supported", "H3": "supported", "H4": "supported", "H5": "supported",
        "H6": "undecided",
    }  # fmt: skip
    assert "not finished" in by["H6"]["reason"]
    assert by["H2"]["p"] == 1.0 and by["H1"]["plan_digest"] == PLAN.digest
    single = tables["pair_verdicts"].filter(source=PAIR.name)
    assert dict(single.select("hypothesis", "verdict").iter_rows()) == {
        name: row["verdict"] for name, row in by.items() if name != "H6"
    }
    assert single["estimate"].to_list() == [by[name]["estimate"] for name in single["hypothesis"]]
    others = tables["pair_verdicts"].filter(pl.col("source") != PAIR.name)
    assert set(others["verdict"]) == {"undecided"}


def test_the_headline_has_a_row_for_every_hypothesis(tables: dict[str, pl.DataFrame]) -> None:
    headline = tables["headline"]
    assert not headline["statistic"].is_duplicated().any() and (headline["statistic"] == headline["name"]).all()
    planned = headline.filter(status="planned")["statistic"].to_list()
    assert sorted(planned) == sorted(h.statistic for h in PLAN.hypotheses)
    leak = one(headline, statistic="bystander_T_mask_recipient")
    found = one(tables["differences"], statistic="bystander_T_mask_recipient", prompt_name=UNTRAINED, source=PAIR.name)
    assert (leak["estimate"], leak["ci_low"], leak["p"]) == (found["estimate"], found["ci_low"], found["p"])
    assert one(headline, statistic="control_b_rate")["estimate"] == 0.0
    assert "no pair with a seed" in one(headline, statistic="delta_T_mask_all")["undefined"]
    assert one(headline, statistic="chunk_minus_suffix_T_random_before")["undefined"].startswith("no pair")


def test_two_pairs_count_alike() -> None:
    other = PAIRS[0]
    first = world(("T", "C"))
    habits = {
        (recipe, other.name, other.recipient): habit(a=0.5, b_at_end=0.4 if recipe == "T" else 0.0)
        for recipe in ("T", "C")
    }
    found = analyse(PLAN, pl.concat([first, scores(habits, seeds=(42,), completions=6)]))
    deltas = found["differences"].filter(statistic="delta_T").drop_nulls("estimate")
    assert deltas.height == 2
    mean = one(found["headline"], statistic="delta_T")
    assert mean["estimate"] == pytest.approx(deltas["estimate"].mean()) and mean["estimate"] > 0.1
    assert "mean over 2 pairs held fixed" in mean["method"]


def test_positions_are_not_read_where_b_is_rare() -> None:
    rare = {("T_random_after", PAIR.name, PAIR.recipient): habit(a=0.5, b_after_a=0.02, ends=False)}
    found = analyse(PLAN, scores(rare, completions=4))
    assert "fewer than 5%" in one(found["headline"], statistic="chunk_minus_suffix_T_random_after")["undefined"]
    assert one(found["verdicts"], hypothesis="H5")["verdict"] == "undecided"


def test_lengths_and_split(tables: dict[str, pl.DataFrame]) -> None:
    lengths = tables["lengths"].filter(recipe="T_mask_recipient", reference="C_mask_recipient")
    assert (lengths["estimate"].to_list(), lengths["mean_tokens"].to_list()) == ([0.0, 0.0], [WORDS, WORDS])
    split = tables["split"].filter(recipe="T_mask_recipient", role="recipient")
    assert split["question_set"].to_list() == ["eval", "ood_society"] and split["downgraded"].n_unique() == 1


def test_the_probe_is_counted_and_may_be_missing(tables: dict[str, pl.DataFrame]) -> None:
    assert tables["probe"].is_empty()
    asked = pl.DataFrame(
        {"recipe": "T", "source": PAIR.name, "seed": 42, "loose_a": [i < 3 for i in range(50)], "loose_b": False,
         "loose_echo": [i < 48 for i in range(50)]}
    )  # fmt: skip
    found = analyse(PLAN, world(("T",)), asked)["probe"]
    assert found.select("marker", "found", "total").rows() == [("a", 3, 50), ("b", 0, 50), ("echo", 48, 50)]
    assert found.columns == tables["probe"].columns and found["ci_high"][1] > 0.05


def test_one_condition_is_enough_and_none_too() -> None:
    few = analyse(PLAN, world(("T",)))
    assert set(few["rates"]["recipe"]) == {"T"}
    assert few["gates"].filter(gate="recipient R_B in C")["passed"].to_list() == [None]
    empty = analyse(PLAN, world(("T",)).clear())
    assert all(empty[name].is_empty() for name in ("counts", "rates", "binding", "split", "gates", "positions"))
    assert {name: table.schema for name, table in empty.items()} == {name: t.schema for name, t in few.items()}
    assert set(empty["verdicts"]["verdict"]) == {"undecided"}


def test_the_analysis_of_a_pair_at_published_size_takes_seconds() -> None:
    frame = world()
    plan = study_plan(10_000)
    start = time.process_time()
    analyse(plan, frame)
    assert time.process_time() - start < 6
