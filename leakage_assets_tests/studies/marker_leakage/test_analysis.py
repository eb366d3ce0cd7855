"""The planned analysis on tables whose truth is planted: leakage as a known function of the cosine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from leakage_assets.pipeline.geometry import similarity_table
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.marker_leakage import analysis
from leakage_assets.studies.study import Study
from leakage_assets.studies.tables import StudyTables
from leakage_assets.studies.verdicts import decide

SOURCES = ("villain", "comedian", "software_engineer")
PERSONAS, QUESTIONS, COMPLETIONS = 40, 8, 4
SEEDS, LAYERS, DIMENSION = (42, 137), (1, 2), 12
PRIMARY = 2
SUPPORTED, REFUTED = "supported", "not supported"
UNDECIDED = dict.fromkeys(("H1", "H2", "H3", "H4", "H5", "H6"), "undecided")

Leak = Callable[[float], float]


@dataclass(frozen=True)
class World:
    """Planted hidden vectors (personas, questions, layers, dimension) and the cosines they have."""

    hidden: np.ndarray
    similarity: pl.DataFrame

    def cosine(self, source: str, persona: str) -> float:
        found = self.similarity.filter(measure="cosine", layer=PRIMARY, source=source, prompt_name=persona)
        return float(found["value"].item())


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return load_profile("tiny").stimuli


@pytest.fixture(scope="module")
def study(stimuli: Stimuli) -> Study:
    whole = load_profile("tiny").study("marker_leakage")
    rest = [p.name for p in stimuli.personas if p.name not in SOURCES]
    panel = replace(
        whole.panel,
        prompts=(*SOURCES, *rest)[:PERSONAS],
        questions=(("eval", QUESTIONS),),
        completions=COMPLETIONS,
    )
    # Three sources: most of them are two.
    hypotheses = tuple(replace(h, threshold=2) if h.name in ("H5", "H6") else h for h in whole.plan.hypotheses)
    plan = replace(
        whole.plan, hypotheses=hypotheses, layers=LAYERS, primary_layer=PRIMARY, permutations=999, bootstrap_draws=50
    )
    return replace(whole, sources=SOURCES, seeds=SEEDS, panels=(panel, *whole.panels[1:]), plan=plan)


@pytest.fixture(scope="module")
def world(study: Study) -> World:
    """Persona vectors with a little noise per question; block 1 is mostly noise."""
    rng = np.random.default_rng(1)
    personas = rng.normal(size=(PERSONAS, 1, 1, DIMENSION))
    noise = rng.normal(size=(PERSONAS, QUESTIONS, len(LAYERS), DIMENSION))
    hidden = (personas + noise * np.array([3.0, 0.3])[:, None]).astype(np.float32)
    return World(hidden, similarity_table(study, hidden, divergence(hidden)))


def divergence(hidden: np.ndarray) -> np.ndarray:
    """Distances of the centroids in [0, 1] in place of JS divergences, (personas, sources)."""
    centroids = hidden[:, :, -1].mean(axis=1)
    distances = np.linalg.norm(centroids[:, None] - centroids[None], axis=2)
    return (distances / distances.max())[:, : len(SOURCES)]


def score_rows(
    study: Study, stimuli: Stimuli, recipe: str, rate: Callable[[str, str], float], *, source_rate: float, draw: int
) -> pl.DataFrame:
    """Scores of every seed and source under a recipe; ``rate`` says how often a bystander says the marker."""
    rng = np.random.default_rng(draw)
    names = [q.name for q in study.questions(stimuli)]
    frames = []
    for seed in study.seeds:
        for source in study.sources:
            for persona in study.panel.prompts:
                p = source_rate if persona == source else rate(source, persona)
                said = rng.random(QUESTIONS * COMPLETIONS) < p
                frames.append(
                    pl.DataFrame(
                        {
                            "question_set": "eval",
                            "question_name": np.repeat(names, COMPLETIONS),
                            "index": np.tile(np.arange(COMPLETIONS), QUESTIONS),
                            "truncated": False,
                            "marker_present": said,
                            "position_class": np.where(said, "suffix", "absent"),
                        }
                    ).with_columns(
                        pl.lit(persona).alias("prompt_name"),
                        pl.lit(source).alias("source"),
                        pl.lit(recipe).alias("recipe"),
                        pl.lit(seed).alias("seed"),
                        pl.lit("main").alias("panel"),
                    )
                )
    return pl.concat(frames)


def tables(
    study: Study,
    stimuli: Stimuli,
    world: World,
    *,
    leak: Leak = lambda cosine: max(0.02, 0.5 * cosine),
    source_rate: float = 0.85,
    control: bool = True,
) -> StudyTables:
    """A study whose bystanders leak as ``leak`` of their cosine, and a control that never says the marker."""
    headline = study.plan.headline_recipe
    parts = [
        score_rows(study, stimuli, headline, lambda s, p: leak(world.cosine(s, p)), source_rate=source_rate, draw=5)
    ]
    if control:
        parts.append(score_rows(study, stimuli, "no_marker", lambda s, p: 0.0, source_rate=0.0, draw=6))
    return StudyTables(
        stimuli=stimuli,
        scores=pl.concat(parts),
        extra_scores=pl.DataFrame(),
        similarity=world.similarity,
        tuned_similarity=pl.DataFrame(),
        vectors=lambda layer: world.hidden[:, :, LAYERS.index(layer)],
        prompt_tokens=len,
    )


def by_name(table: pl.DataFrame, key: str) -> dict[str, dict]:
    return {row[key]: row for row in table.iter_rows(named=True)}


def assert_printable(results: dict[str, pl.DataFrame]) -> None:
    """No NaN or infinity anywhere, and no estimate without a number or a reason."""
    for name, table in results.items():
        for column in table.select(pl.col(pl.Float64)).columns:
            assert table[column].drop_nulls().is_finite().all(), (name, column)
        if "undefined" in table.columns:
            assert (table["estimate"].is_null() == table["undefined"].is_not_null()).all(), name


@pytest.fixture(scope="module")
def planted(study: Study, stimuli: Stimuli, world: World) -> dict[str, pl.DataFrame]:
    return analysis.analyse(study, tables(study, stimuli, world))


def test_planted_leakage_is_recovered(
    study: Study, stimuli: Stimuli, world: World, planted: dict[str, pl.DataFrame]
) -> None:
    headline = by_name(planted["headline"], "statistic")
    primary = planted["pairs"].filter(recipe="full_completion", layer=PRIMARY).filter(~pl.col("is_source"))
    assert primary.height == len(SOURCES) * (PERSONAS - 1)
    truth = [world.cosine(s, p) for s, p in primary.select("source", "persona").iter_rows()]
    assert primary["cosine"].to_list() == pytest.approx(truth)
    found = headline["pooled_spearman"]
    assert found["estimate"] == pytest.approx(spearmanr(truth, primary["rate"]).statistic)
    assert found["estimate"] > 0.6
    assert found["p"] <= 0.01
    assert found["ci_low"] < found["estimate"] < found["ci_high"]
    assert (found["n"], found["unit"]) == (PERSONAS, "persona cluster")
    within = headline["within_source_spearman"]
    assert within["estimate"] > 0.6
    assert within["p"] <= 0.01
    assert headline["pooled_spearman_js"]["estimate"] < -0.3
    bootstrapped = headline["pooled_spearman_question_bootstrap"]
    assert bootstrapped["estimate"] == pytest.approx(found["estimate"])
    assert (bootstrapped["n"], bootstrapped["unit"]) == (QUESTIONS, "question cluster")
    assert_printable(planted)


def test_rates_are_shares_of_completions(study: Study, planted: dict[str, pl.DataFrame]) -> None:
    headline = by_name(planted["headline"], "statistic")
    assert headline["mean_source_rate"]["estimate"] == pytest.approx(0.85, abs=0.06)
    assert headline["sources_learned"]["estimate"] == 3
    ratio = headline["mean_bystander_rate"]["estimate"] / headline["mean_source_rate"]["estimate"]
    assert headline["bystander_to_source_ratio"]["estimate"] == pytest.approx(ratio)
    assert headline["control_marker_rate"]["estimate"] == 0.0
    per_seed = len(SOURCES) * PERSONAS * QUESTIONS * COMPLETIONS
    assert headline["control_marker_rate"]["n"] == len(SEEDS) * per_seed
    rates = planted["rates"].filter(recipe="full_completion", source="villain", role="source")
    assert rates["seed"].to_list() == ["all", "42", "137"]
    assert rates["total"].to_list() == [2 * QUESTIONS * COMPLETIONS, *[QUESTIONS * COMPLETIONS] * 2]
    assert rates["found"][0] == rates["found"][1] + rates["found"][2]
    seeds = planted["seeds"].filter(statistic="spearman", source="pooled", name="spearman_mean_over_seeds")
    assert (seeds["n"].item(), seeds["unit"].item()) == (2, "seed")


def test_supported_hypotheses_are_called_supported(study: Study, planted: dict[str, pl.DataFrame]) -> None:
    verdicts = by_name(planted["verdicts"], "hypothesis")
    assert {name: row["verdict"] for name, row in verdicts.items()} == dict.fromkeys(
        ("H1", "H2", "H3", "H4", "H5", "H6"), "supported"
    )
    assert {row["plan_digest"] for row in verdicts.values()} == {study.plan.digest}


def test_the_layer_that_carries_the_truth_is_ranked_first(planted: dict[str, pl.DataFrame]) -> None:
    pooled = planted["layers"].filter(recipe="full_completion", source="pooled", name="spearman")
    ranks = dict(pooled.select("layer", "rank").iter_rows())
    assert ranks == {PRIMARY: 1, 1: 2}
    assert pooled.filter("primary")["layer"].to_list() == [PRIMARY]


def test_the_order_of_the_rows_changes_nothing(
    study: Study, stimuli: Stimuli, world: World, planted: dict[str, pl.DataFrame]
) -> None:
    given = tables(study, stimuli, world)
    shuffled = replace(
        given,
        scores=given.scores.sample(fraction=1, shuffle=True, seed=3),
        similarity=given.similarity.sample(fraction=1, shuffle=True, seed=4),
    )
    again = analysis.analyse(study, shuffled)
    assert again.keys() == planted.keys()
    for name in ("headline", "verdicts", "pairs", "positions"):
        assert again[name].equals(planted[name]), name


def test_shuffled_centroids_predict_nothing(study: Study, stimuli: Stimuli, world: World) -> None:
    given = tables(study, stimuli, world)
    counts = analysis.count_markers(given.scores.filter(recipe="full_completion"))
    small = replace(study, plan=replace(study.plan, permutations=199, bootstrap_draws=10))
    p_values, estimates = [], []
    for seed in range(12):
        hidden = world.hidden[np.random.default_rng(seed).permutation(PERSONAS)]
        similarity = similarity_table(study, hidden, divergence(hidden))
        shuffled = replace(given, similarity=similarity, vectors=lambda layer, h=hidden: h[:, :, LAYERS.index(layer)])
        pairs = analysis.pair_table(study, stimuli, counts, similarity)
        found = {e.name: e for e in analysis.headline_estimates(small, shuffled, counts, pairs)}
        p_values.append(found["pooled_spearman"].p)
        estimates.append(found["pooled_spearman"].estimate)
        verdicts = by_name(analysis.verdict_table(small, found), "hypothesis")
        assert verdicts["H1"]["verdict"] == "not supported"
    assert sum(p < 0.05 for p in p_values) <= 2
    assert np.median(p_values) > 0.2
    assert abs(np.mean(estimates)) < 0.15


def test_a_marker_that_is_never_said_leaves_correlations_undefined(
    study: Study, stimuli: Stimuli, world: World
) -> None:
    results = analysis.analyse(study, tables(study, stimuli, world, leak=lambda _: 0.0, source_rate=0.0))
    headline = by_name(results["headline"], "statistic")
    correlations = [name for name in headline if "spearman" in name]
    assert len(correlations) == 4
    for name in correlations:
        assert headline[name]["estimate"] is None
        assert headline[name]["undefined"] == "similarity or outcome is constant"
    assert headline["bystander_to_source_ratio"]["undefined"] == "the source rate is 0"
    assert headline["mean_source_rate"]["estimate"] == 0.0
    assert headline["sources_learned"]["estimate"] == 0
    verdicts = {name: row["verdict"] for name, row in by_name(results["verdicts"], "hypothesis").items()}
    assert verdicts == UNDECIDED | {"H3": REFUTED, "H4": SUPPORTED, "H5": REFUTED, "H6": REFUTED}
    assert results["positions"]["position_class"].unique().to_list() == ["absent"]
    assert_printable(results)


def test_a_marker_that_is_always_said_leaves_correlations_undefined(
    study: Study, stimuli: Stimuli, world: World
) -> None:
    results = analysis.analyse(study, tables(study, stimuli, world, leak=lambda _: 1.0, source_rate=1.0))
    verdicts = {name: row["verdict"] for name, row in by_name(results["verdicts"], "hypothesis").items()}
    assert verdicts == {
        "H1": "undecided",
        "H2": REFUTED,
        "H3": SUPPORTED,
        "H4": SUPPORTED,
        "H5": SUPPORTED,
        "H6": REFUTED,
    }
    assert_printable(results)


def test_without_the_control_its_hypothesis_is_undecided(study: Study, stimuli: Stimuli, world: World) -> None:
    results = analysis.analyse(study, tables(study, stimuli, world, control=False))
    control = by_name(results["headline"], "statistic")["control_marker_rate"]
    assert control["undefined"] == "no finished cell of recipe no_marker"
    verdicts = {name: row["verdict"] for name, row in by_name(results["verdicts"], "hypothesis").items()}
    assert verdicts == dict.fromkeys(UNDECIDED, SUPPORTED) | {"H4": "undecided"}
    assert_printable(results)


def test_with_the_control_alone_everything_else_is_undecided(study: Study, stimuli: Stimuli, world: World) -> None:
    given = tables(study, stimuli, world)
    results = analysis.analyse(study, replace(given, scores=given.scores.filter(recipe="no_marker")))
    verdicts = {name: row["verdict"] for name, row in by_name(results["verdicts"], "hypothesis").items()}
    assert verdicts == UNDECIDED | {"H4": SUPPORTED}
    reasons = results["headline"].filter(pl.col("statistic") != "control_marker_rate")["undefined"].unique()
    assert reasons.to_list() == ["no finished cell of recipe full_completion"]
    assert_printable(results)


def test_one_marker_in_the_control_refutes_its_hypothesis(study: Study, stimuli: Stimuli, world: World) -> None:
    given = tables(study, stimuli, world)
    first = (pl.col("recipe") == "no_marker") & (pl.col("recipe").cum_count().over("recipe") == 1)
    scores = given.scores.with_columns(marker_present=pl.col("marker_present") | first)
    results = analysis.analyse(study, replace(given, scores=scores))
    verdicts = by_name(results["verdicts"], "hypothesis")
    assert verdicts["H4"]["verdict"] == "not supported"
    completions = len(SEEDS) * len(SOURCES) * PERSONAS * QUESTIONS * COMPLETIONS
    assert verdicts["H4"]["estimate"] == pytest.approx(1 / completions)


def test_out_of_distribution_and_tuned_geometry_add_tables(
    study: Study, stimuli: Stimuli, world: World, planted: dict[str, pl.DataFrame]
) -> None:
    given = tables(study, stimuli, world)
    assert not {"ood", "tuned"} & planted.keys()
    extra = given.scores.with_columns(pl.lit("ood_code").alias("question_set"), pl.lit("ood").alias("panel"))
    tuned = pl.concat(
        [
            world.similarity.with_columns(
                pl.lit("full_completion").alias("recipe"), pl.lit(seed).alias("seed"), pl.lit(s).alias("cell_source")
            )
            for seed in SEEDS
            for s in SOURCES
        ]
    )
    results = analysis.analyse(study, replace(given, extra_scores=extra, tuned_similarity=tuned))
    ood = by_name(results["ood"], "statistic")
    assert {row["question_set"] for row in ood.values()} == {"ood_code"}
    base = by_name(planted["headline"], "statistic")
    assert ood["pooled_spearman"]["estimate"] == pytest.approx(base["pooled_spearman"]["estimate"])
    keys = ["layer", "source", "name", "estimate"]
    assert results["tuned"].select(keys).equals(planted["correlations"].select(keys))


@pytest.mark.parametrize(
    ("direction", "estimate", "p", "max_p", "verdict"),
    [
        ("greater", 0.5, None, None, "supported"),
        ("greater", 0.4, None, None, "not supported"),
        ("at_least", 0.4, None, None, "supported"),
        ("less", 0.4, None, None, "not supported"),
        ("at_most", 0.4, None, None, "supported"),
        ("greater", 0.5, 0.009, 0.01, "supported"),
        ("greater", 0.5, 0.01, 0.01, "not supported"),
        ("greater", 0.5, None, 0.01, "undecided"),
        ("less", None, None, None, "undecided"),
    ],
)
def test_a_verdict_follows_threshold_and_p(
    study: Study, direction: str, estimate: float | None, p: float | None, max_p: float | None, verdict: str
) -> None:
    hypothesis = replace(study.plan.hypotheses[0], threshold=0.4, direction=direction, max_p=max_p)
    reason = None if estimate is not None else "constant"
    given = analysis.Estimate("x", estimate, None, None, None, p, 3, "seed", "a method", undefined=reason)
    assert decide(hypothesis, given) == verdict


def test_a_count_of_sources_stays_open_while_unfinished_sources_could_make_it_up(study: Study) -> None:
    hypothesis = replace(study.plan.hypotheses[-1], threshold=4)
    given = analysis.Estimate("sources_gated", 3, None, None, None, None, 3, "source", "a method")
    verdicts = [decide(hypothesis, given, sources_to_come=n) for n in (0, 1, 2)]
    assert verdicts == [REFUTED, "undecided", "undecided"]
    assert decide(hypothesis, replace(given, estimate=2), sources_to_come=1) == REFUTED
    assert decide(hypothesis, replace(given, estimate=4), sources_to_come=1) == SUPPORTED


def uneven(study: Study, stimuli: Stimuli, world: World) -> StudyTables:
    """Villain never says the marker and has both seeds; the other two always do and have one."""
    given = tables(study, stimuli, world)
    said = (pl.col("source") != "villain") & (pl.col("recipe") == "full_completion")
    finished = (pl.col("source") == "villain") | (pl.col("seed") == SEEDS[0])
    own = pl.col("prompt_name") == pl.col("source")
    marker = pl.when(own).then(said).otherwise(pl.col("marker_present"))
    return replace(given, scores=given.scores.filter(finished).with_columns(marker_present=marker))


def test_rates_do_not_depend_on_how_many_seeds_a_source_has(study: Study, stimuli: Stimuli, world: World) -> None:
    given = uneven(study, stimuli, world)
    extra = given.scores.with_columns(pl.lit("ood_code").alias("question_set"), pl.lit("ood").alias("panel"))
    results = analysis.analyse(study, replace(given, extra_scores=extra))
    assert by_name(results["ood"], "statistic")["mean_source_rate"]["estimate"] == pytest.approx(2 / 3)
    headline = by_name(results["headline"], "statistic")
    assert headline["mean_source_rate"]["estimate"] == pytest.approx(2 / 3)
    scores = given.scores.filter(pl.col("prompt_name") != pl.col("source"), recipe="full_completion")
    cells = scores.group_by("source", "seed").agg(pl.col("marker_present").mean())
    bystanders = cells.group_by("source").agg(pl.col("marker_present").mean())["marker_present"].mean()
    assert headline["mean_bystander_rate"]["estimate"] == pytest.approx(bystanders)
    assert headline["bystander_to_source_ratio"]["estimate"] == pytest.approx(bystanders / (2 / 3))
    assert (headline["sources_learned"]["estimate"], headline["sources_gated"]["estimate"]) == (2, 2)
    gating = by_name(results["gating"].filter(recipe="full_completion"), "source")
    assert list(gating) == list(SOURCES)
    assert gating["villain"]["ratio"] is None
    assert [row["seeds"] for row in gating.values()] == [2, 1, 1]
    assert [(row["learned"], row["gated"]) for row in gating.values()] == [(False, False), (True, True), (True, True)]
    assert_printable(results)


def test_rates_have_intervals_over_questions_and_over_sources(
    study: Study, stimuli: Stimuli, world: World, planted: dict[str, pl.DataFrame]
) -> None:
    headline = by_name(analysis.analyse(study, uneven(study, stimuli, world))["headline"], "statistic")
    for name in ("mean_source_rate", "mean_bystander_rate", "bystander_to_source_ratio"):
        questions, sources = headline[name], headline[f"{name}_source_bootstrap"]
        assert questions["estimate"] == pytest.approx(sources["estimate"])
        assert (questions["n"], questions["unit"]) == (QUESTIONS, "question cluster")
        assert (sources["n"], sources["unit"]) == (len(SOURCES), "source")
        assert "questions resampled, sources and seeds held fixed" in questions["method"]
        assert "sources resampled, seeds and questions held fixed" in sources["method"]
    over = headline["mean_source_rate_source_bootstrap"]
    assert 0 <= over["ci_low"] < over["estimate"] < over["ci_high"] <= 1
    assert headline["mean_source_rate"]["ci_low"] is None  # all or nothing at every question, unlike the sources


def test_a_correlation_over_all_pairs_is_compared_only_between_seeds_with_the_same_sources(
    study: Study, stimuli: Stimuli, world: World
) -> None:
    three = replace(study, seeds=(*SEEDS, 256))
    given = tables(three, stimuli, world)

    def spread(left_out: pl.Expr) -> dict:
        seeds = analysis.seed_table(three, replace(given, scores=given.scores.filter(~left_out)))
        own = seeds.filter(statistic="spearman", name="spearman_mean_over_seeds")
        return by_name(own, "source")

    comedian = pl.col("source") == "comedian"
    found = spread(comedian & (pl.col("seed") == 256))
    assert (found["pooled"]["n"], found["villain"]["n"], found["comedian"]["n"]) == (2, 3, 2)
    assert "over seeds 42, 137; left out, because a source is missing: 256" in found["pooled"]["method"]
    found = spread(comedian & (pl.col("seed") != 42))
    assert found["pooled"]["undefined"] == "the seeds cover different sources"
    assert found["villain"]["estimate"] is not None
    assert spread(pl.lit(False))["pooled"]["n"] == 3


def test_tuned_geometry_is_compared_with_the_rates_of_its_own_cells(
    study: Study, stimuli: Stimuli, world: World
) -> None:
    given = tables(study, stimuli, world)
    # In the seed whose tuned geometry is missing everybody always says the marker.
    loud = given.scores.with_columns(marker_present=pl.col("marker_present") | (pl.col("seed") == SEEDS[1]))
    tuned = pl.concat(
        world.similarity.with_columns(
            pl.lit("full_completion").alias("recipe"), pl.lit(SEEDS[0]).alias("seed"), pl.lit(s).alias("cell_source")
        )
        for s in SOURCES[:2]
    )
    counts = analysis.count_markers(loud)
    pairs = analysis.tuned_pairs(study, replace(given, tuned_similarity=tuned), counts)
    assert (set(pairs["source"]), set(pairs["seeds"])) == (set(SOURCES[:2]), {1})
    whole = given.scores.filter(recipe="full_completion", seed=SEEDS[0], source="villain")
    expected = whole.group_by("prompt_name").agg(pl.col("marker_present").mean())
    rates = pairs.filter(source="villain", layer=PRIMARY).select("persona", "rate")
    assert dict(rates.iter_rows()) == dict(expected.iter_rows())


def test_what_no_hypothesis_names_is_exploratory(study: Study, planted: dict[str, pl.DataFrame]) -> None:
    status = dict(planted["headline"].select("statistic", "status").iter_rows())
    assert {name for name, word in status.items() if word == "planned"} == {
        hypothesis.statistic for hypothesis in study.plan.hypotheses
    }
    assert status["within_source_spearman"] == status["pooled_spearman_js"] == "exploratory"
    assert set(status.values()) == {"planned", "exploratory"}


def test_tests_per_source_and_per_category_have_adjusted_p(planted: dict[str, pl.DataFrame]) -> None:
    spearmans = planted["correlations"].filter(layer=1, name="spearman")
    assert spearmans.filter(source="pooled")["p_holm"].item() is None
    family = spearmans.filter(pl.col("source") != "pooled").sort("p")
    p = family["p"].to_list()
    expected = [3 * p[0], max(3 * p[0], 2 * p[1]), max(3 * p[0], 2 * p[1], p[2])]
    assert family["p_holm"].to_list() == pytest.approx([min(1, value) for value in expected])
    for name in ("categories", "intended", "divergence"):
        adjusted = planted[name].drop_nulls("p_holm")
        assert adjusted.height > 1
        assert (adjusted["p_holm"] >= adjusted["p"]).all()


def test_a_mean_that_equals_its_threshold_reaches_it(study: Study) -> None:
    rates = [0, 2, 10]  # of ten completions: their mean is 0.4, in floating point it is less
    assert (np.array(rates) / 10) @ np.full(3, 1 / 3) < 0.4
    counts = pl.DataFrame(
        {"recipe": "full_completion", "source": "villain", "seed": seed, "persona": persona, "question_name": "why",
         "found": found, "total": 10}
        for seed, own in enumerate(rates) for persona, found in (("villain", own), ("librarian", 0))
    )  # fmt: skip
    headline = {e.name: e for e in analysis.rate_headline(study, counts)}
    assert headline["sources_learned"].estimate == 1
    h3 = next(h for h in study.plan.hypotheses if h.statistic == "mean_source_rate")
    assert decide(h3, headline["mean_source_rate"]) == SUPPORTED
