"""Recomputes the published rates of two_marker_chunk (#261, #354, #369) from their counts, and what was made of them.

Counts by question were not published, so the intervals over questions cannot be recomputed; whether they hold their
rate can. No Wilson bounds were published, so there is nothing to compare ours with. What the write-up prints or claims
stands in ``data/published/two_marker_chunk.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakage_assets.paths import DATA
from leakage_assets.shapes import SHAPES
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.studies.published import (
    FigureKey,
    Headline,
    ReproductionError,
    comparison,
    comparison_table,
    figure_row,
    read_headline,
    read_published,
)
from leakage_assets.studies.two_marker_chunk.arms import C2_MASKED, C_MASKED, P2NEG, PAIRS, T_MASKED, C, T
from leakage_assets.studies.two_marker_chunk.design import (
    NEGLIGIBLE,
    PUBLISHED,
    SEEDS,
    on_policy_data,
    originals,
    panels,
    planned_experiment,
    recipes,
)
from leakage_assets.studies.two_marker_chunk.distances import distance_table
from leakage_assets.studies.two_marker_chunk.gates import GateLimits, GateValues, gates, tally
from leakage_assets.studies.two_marker_chunk.tokens import PINNED

if TYPE_CHECKING:
    import polars as pl

FIGURES = DATA / "published" / "two_marker_chunk.json"
FIRST, FOLLOW_UPS = "i261_expected.csv", "i354_i369_expected.csv"
COSINES = "i66_cosines.csv"
"""Of marker_leakage, on the same personas: how far apart the pairs are (C3)."""

RATE_TOLERANCE = 5e-7
"""Rates are printed with six decimals."""

PAIR_NAMES = {"pair1_villain_assistant": "pair1", "pair2_librarian_swe": "pair2"}
PUBLISHED_PAIRS = dict(zip(PAIR_NAMES.values(), PAIRS, strict=False))
NEAR = "pair1"
"""As the write-up labels it."""

QWEN_END_OF_TURN = 151645

COLUMNS: Mapping[str, Mapping[str, type]] = {
    FIRST: {
        "pair": str, "condition": str, "role": str, "persona": str, "n": int, "k_A": int, "k_B": int, "k_AB": int,
        "rate_A": float, "rate_B": float, "rate_B_given_A": float, "cluster_ci_lo_pct": float,
        "cluster_ci_hi_pct": float,
    },
    FOLLOW_UPS: {
        "issue": int, "arm": str, "persona": str, "n": int, "k_A": int, "k_B": int, "k_AB": int,
        "rate_B_given_A": float, "ci_question_lo": float, "ci_question_hi": float, "ci_seed_question_lo": float,
        "ci_seed_question_hi": float, "n_seeds": int,
    },
}  # fmt: skip
MAY_BE_EMPTY = {
    FIRST: {"rate_B_given_A", "cluster_ci_lo_pct", "cluster_ci_hi_pct"},
    FOLLOW_UPS: {"k_B", "ci_question_lo", "ci_question_hi", "ci_seed_question_lo", "ci_seed_question_hi"},
}

INTERVALS = {
    FIRST: (("interval over questions", "cluster_ci_lo_pct", "cluster_ci_hi_pct", 100),),
    FOLLOW_UPS: (
        ("interval over questions", "ci_question_lo", "ci_question_hi", 1),
        ("interval over seeds and questions", "ci_seed_question_lo", "ci_seed_question_hi", 1),
    ),
}
"""Name, bounds and how much of them makes 1."""

Row = dict[str, Any]
Facts = dict[FigureKey, float | None]


def reproduce(published: Path) -> pl.DataFrame:
    """Published beside recomputed, one row per number.

    Columns as those of the other studies: block, item, metric, published, recomputed, difference, tolerance, verdict
    (``ok``, ``DIFFERS``, ``undefined``, or ``known: C1`` where the sheet says that the write-up is wrong).
    ``published`` is the folder of the two tables and of the cosines of marker_leakage.

    Raises ``ReproductionError`` for a missing folder, file or column, cells that are no numbers, counts that cannot be,
    or a condition that is not there.
    """
    cells = {name: _cells(published, name) for name in COLUMNS}
    design = _design(load_stimuli())
    facts = dict(_facts(published, cells)) | {FigureKey(*key): value for key, value in design.items()}
    facts |= dict(_distances(published))
    each = design["design", "each persona", "completions"]
    rows = [
        *(row for name, found in cells.items() for cell in found.values() for row in _cell_rows(name, cell, each)),
        *(figure_row(f, facts, tolerance=f.precision / 2, path=FIGURES) for f in headline_figures().figures),
    ]
    return comparison_table(rows)


def headline_figures(path: Path = FIGURES) -> Headline:
    """The typed-in figures, validated. Raises ``ReproductionError`` naming the file and the field."""
    return read_headline(path)


# ------------------------------------------------------------------ the tables


def _cells(published: Path, name: str) -> dict[str, Row]:
    """The rows of a table by what they are about: ``pair1 T villain``, ``#354 T librarian``."""
    table = read_published(published, name, COLUMNS[name], may_be_empty=MAY_BE_EMPTY[name])
    cells: dict[str, Row] = {}
    for line, row in enumerate(table.iter_rows(named=True), start=2):
        place = f"{published / name}:{line}"
        if name == FIRST:
            if row["pair"] not in PAIR_NAMES:
                raise ReproductionError(f"{place}: unknown pair {row['pair']!r}; fetch the file again")
            item = f"{PAIR_NAMES[row['pair']]} {row['condition']} {row['persona']}"
        else:
            item = f"#{row['issue']} {row['arm']} {row['persona']}"
        if item in cells:
            raise ReproductionError(f"{place}: {item} occurs twice; fetch the file again")
        _check_counts(place, row)
        cells[item] = {"item": item, **row}
    return cells


def _check_counts(place: str, row: Row) -> None:
    known = [row[key] for key in ("k_A", "k_B") if row[key] is not None]
    if not 0 <= row["k_AB"] <= min(known) or max(known) > row["n"]:
        raise ReproductionError(f"{place}: {row['k_AB']} with both of {known} of {row['n']}; fetch the file again")


def _cell_rows(name: str, cell: Row, each: float) -> Iterator[dict[str, object]]:
    """Rates from counts, and whether each interval holds its rate.

    ``each``: completions of a persona by one adapter, in our design at the published scale.
    """
    item, n = cell["item"], cell["n"]
    for metric, above, below in (("rate_A", "k_A", n), ("rate_B", "k_B", n), ("rate_B_given_A", "k_AB", cell["k_A"])):
        printed = cell.get(metric)
        if printed is None:
            continue
        rate = _share(cell[above], below)
        yield comparison(FigureKey("counts", item, metric), printed, rate, RATE_TOLERANCE)
    if name == FIRST and cell["k_A"] == 0:
        # Undefined exactly where A is never said.
        printed = cell["rate_B_given_A"]
        yield comparison(FigureKey("counts", item, "rate_B_given_A printed"), float(printed is not None), 0.0, 0.0)
    for metric, low, high, whole in INTERVALS[name]:
        rate = _share(cell["k_AB"], cell["k_A"])
        if cell[low] is None or cell[high] is None or rate is None:
            continue
        slack = (
            0.0005 if whole == 100 or cell["arm"] == "C2" else RATE_TOLERANCE
        )  # printed with one decimal of a percent
        inside = cell[low] / whole - slack <= rate <= cell[high] / whole + slack
        yield comparison(FigureKey("intervals", item, f"{metric} holds the rate"), 1.0, float(inside), 0.0)
    yield comparison(FigureKey("counts", item, "n"), n, cell.get("n_seeds", 1) * each, 0.0)


def _share(found: int | None, total: int) -> float | None:
    return found / total if found is not None and total else None


# ------------------------------------------------------------------ what the write-up prints


def _facts(published: Path, cells: Mapping[str, Mapping[str, Row]]) -> Iterator[tuple[FigureKey, float | None]]:
    first, later = cells[FIRST], cells[FOLLOW_UPS]
    for found in (first, later):
        for item, cell in found.items():
            for metric, above, below in (
                ("r_a_pct", "k_A", cell["n"]),
                ("r_b_pct", "k_B", cell["n"]),
                ("r_b_given_a_pct", "k_AB", cell["k_A"]),
            ):
                rate = _share(cell[above], below)
                yield FigureKey("rates", item, metric), None if rate is None else 100 * rate
    for name, pair in PUBLISHED_PAIRS.items():
        trained, control = (_given(published / FIRST, first, f"{name} {arm} {pair.recipient}") for arm in (T, C))
        delta = None if trained is None or control is None else trained - control
        yield FigureKey("delta", name, "delta_pp"), None if delta is None else 100 * delta
        yield FigureKey("delta", name, "negligible"), None if delta is None else float(abs(delta) <= NEGLIGIBLE)
        found_gates = gates(_gate_values(published / FIRST, first, name), GateLimits())
        yield FigureKey("gates", name, "failed_of_write-up"), tally(found_gates, "write-up").failed
        yield FigureKey("gates", name, "failed_of_code"), tally(found_gates, "code").failed
    leaking = _given(published / FIRST, first, "pair2 T police_officer")
    own = _given(published / FIRST, first, "pair2 T software_engineer")
    yield FigureKey("claims", "police_officer over recipient", "ratio"), leaking / own if leaking and own else None
    place = published / FOLLOW_UPS
    masked, control = (_given(place, later, f"#354 {arm} software_engineer") for arm in (T, C))
    negligible = None if masked is None or control is None else float(abs(masked - control) <= NEGLIGIBLE)
    yield FigureKey("claims", "#354 recipient after masking", "negligible"), negligible
    both, alone = (_cell(place, later, f"#369 {arm} software_engineer") for arm in (T, "C2"))
    overlap = [
        both[f"{which}_lo"] <= alone[f"{which}_hi"] and alone[f"{which}_lo"] <= both[f"{which}_hi"]
        for which in ("ci_question", "ci_seed_question")
    ]
    yield FigureKey("claims", "#369 T over C2", "intervals_overlap"), float(all(overlap))


def _distances(published: Path) -> Iterator[tuple[FigureKey, float | None]]:
    """Cosines of both pairs in the base model, and at how many layers the one that is called near is the closer."""
    import polars as pl

    columns = {"layer": int, "source": str, "persona": str, "cosine": float}
    cosines = read_published(published, COSINES, columns).rename({"persona": "prompt_name", "cosine": "value"})
    table = distance_table(tuple(PUBLISHED_PAIRS.values()), cosines)
    closer = 0
    for name, pair in PUBLISHED_PAIRS.items():
        own = table.filter(pl.col("source") == pair.name)
        for layer, cosine in own.select("layer", "cosine").iter_rows():
            yield FigureKey("distance", f"{name} L{layer}", "cosine"), cosine
        if name == NEAR:
            closer = own.filter(pl.col("closeness") == 1).height
    yield FigureKey("distance", NEAR, "closer_at_layers"), float(closer)


def _cell(path: Path, cells: Mapping[str, Row], item: str) -> Row:
    if item not in cells:
        raise ReproductionError(f"{path}: no line {item}; fetch the file again")
    return cells[item]


def _given(path: Path, cells: Mapping[str, Row], item: str) -> float | None:
    """R_B|A of a line that must be there."""
    cell = _cell(path, cells, item)
    return _share(cell["k_AB"], cell["k_A"])


def _gate_values(path: Path, cells: Mapping[str, Row], name: str) -> GateValues:
    """What the gates of a pair are read from; every persona of C that is not in the table never says B (section 8)."""
    pair = PUBLISHED_PAIRS[name]
    donor, recipient = (_cell(path, cells, f"{name} {T} {persona}") for persona in (pair.donor, pair.recipient))
    control = _cell(path, cells, f"{name} {C} {pair.recipient}")
    in_control = [_share(cell["k_B"], cell["n"]) for item, cell in cells.items() if item.startswith(f"{name} {C} ")]
    low = donor["cluster_ci_lo_pct"]
    return GateValues(
        donor_a=_share(donor["k_A"], donor["n"]),
        donor_b=_share(donor["k_B"], donor["n"]),
        donor_b_given_a=_share(donor["k_AB"], donor["k_A"]),
        donor_low=None if low is None else low / 100,
        recipient_a=_share(recipient["k_A"], recipient["n"]),
        recipient_b_in_c=_share(control["k_B"], control["n"]),
        largest_b_in_c=max((rate for rate in in_control if rate is not None), default=None),
        recipient_with_a=recipient["k_A"],
        recipient_with_a_in_c=control["k_A"],
    )


def _design(stimuli: Stimuli) -> dict[tuple[str, str, str], float]:
    """What the typed-in figures name, counted in our design at the published scale."""
    data, (panel,) = on_policy_data(stimuli, PUBLISHED), panels(stimuli, PUBLISHED)
    pair = PAIRS[0]
    rows = len(pair.trained) * data.questions * data.used
    recipe = recipes(PUBLISHED)[0]
    probe = planned_experiment(stimuli, PUBLISHED).probe
    adapters = len(PUBLISHED_PAIRS) * len((T, C, P2NEG))
    pinned = PINNED[QWEN_END_OF_TURN]
    return {
        ("design", "training answers", "completions"): sum(
            pool.completions * sum(count for _, count in pool.questions) for pool in data.pools
        ),
        ("design", "each adapter", "rows"): rows,
        ("design", "each adapter", "steps"): recipe.steps(rows),
        ("design", "#261", "adapters"): adapters,
        ("design", "each adapter", "completions"): panel.size,
        ("design", "#261", "completions"): adapters * panel.size,
        ("design", "each persona", "completions"): panel.size / len(panel.prompts),
        ("design", "panel", "questions"): sum(count for _, count in panel.questions),
        ("design", "panel", "untrained"): sum(pair.role(name) == "untrained" for name in originals(stimuli)),
        ("design", "probe", "completions"): probe.questions * probe.completions,
        ("design", "#369", "adapters"): len((T_MASKED, C_MASKED, C2_MASKED)) * len(SEEDS),
        ("design", "#369", "completions of a persona"): len(SEEDS) * panel.size / len(panel.prompts),
        ("design", "#369", "learning_rate"): recipe.learning_rate,
        ("design", "#369", "epochs"): recipe.epochs,
        ("design", "training", "trainable_parameters"): SHAPES["qwen2.5-7b"].lora_parameters(
            recipe.lora.r, recipe.lora.targets
        ),
        ("design", "markers", "shared tokens"): len(set(pinned.a) & set(pinned.b)),
        ("design", "bootstrap", "resamples"): PUBLISHED.permutations,
    }
