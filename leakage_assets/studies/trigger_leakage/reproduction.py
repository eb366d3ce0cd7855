"""Checks the published numbers of trigger_leakage (#207 to #210) against each other and against our own design.

No result of a single cell was published, so no statistic can be recomputed (sheet section 10). What can be checked is
the arithmetic between the printed numbers, and every count that follows from sources, panel and recipes: those are
counted in the design that this package trains. A printed number stands for every number that rounds to it, so the
tolerance of a ratio or difference is what the rounding of its parts leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leakage_assets.paths import DATA
from leakage_assets.shapes import SHAPES
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.studies.published import (
    Basis,
    FigureKey,
    Headline,
    ReproductionError,
    comparison,
    comparison_table,
    figure_row,
    read_headline,
    read_published,
)
from leakage_assets.studies.trigger_leakage.design import (
    COUNTED_TWICE,
    PUBLISHED,
    SEEDS,
    STRONG,
    TITRATION,
    dissociation,
    panels,
    recipes,
    shared_answers,
)
from leakage_assets.studies.trigger_leakage.dissociation import CELLS
from leakage_assets.studies.trigger_leakage.panel import (
    MATE,
    TRIGGERS,
    declarative_rewrites,
    panel_prompts,
    predicted,
    role,
)

if TYPE_CHECKING:
    import polars as pl

FIGURES = DATA / "published" / "trigger_leakage.json"
EXPECTED = "i207_expected.csv"
COLUMNS: Mapping[str, type] = {
    "issue": int, "block": str, "item": str, "metric": str, "value": float, "n": int, "note": str,
}  # fmt: skip
MAY_BE_EMPTY = {"value", "n", "note"}

CONTROLS = 2
"""The adapter without marker and the persona anchor, one seed each."""

TITRATION_ISSUE, DISSOCIATION_ISSUE, PROBE_ISSUE = 208, 209, 210

PERCENT, RATIO, R2 = 0.05, 0.005, 0.005
"""Half a unit of the last printed digit: rates have one decimal, ratios of #208 and R² two."""

HEADLINE_RATIO, GAP_UNIT = 0.05, 0.0005
"""The same of the ratio of #207 (one decimal) and of the gap (three)."""

BASES: Mapping[str, Basis] = {"design": "design", "reported": "transcribed"}
"""What the typed-in figures of a block are set beside."""

Row = dict[str, object]
Entry = tuple[int, str, str, str]
Value = tuple[str, str, str]


def reproduce(published: Path) -> pl.DataFrame:
    """Published beside recomputed, one row per identity.

    Columns as those of the other studies: block, item, metric, published, recomputed, difference, tolerance, verdict
    (``ok``, ``DIFFERS``, ``undefined``, or ``known: B1`` where the sheet says that the write-up is wrong), basis.
    ``published`` is the folder of ``i207_expected.csv``.

    Raises ``ReproductionError`` for a missing folder, file, column or entry, or cells that are not numbers.
    """
    table = read_published(published, EXPECTED, COLUMNS, may_be_empty=MAY_BE_EMPTY)
    printed = _Printed(published / EXPECTED, table)
    facts = dict(_facts(printed, load_stimuli()))
    rows = [
        *_headline_rows(printed),
        *_count_rows(printed, facts),
        *_titration_rows(printed),
        *_dissociation_rows(printed),
        *_probe_rows(printed),
        *(
            figure_row(f, facts, tolerance=f.precision / 2, path=FIGURES, basis=BASES.get(f.block, "recomputed"))
            for f in headline_figures().figures
        ),
    ]
    return comparison_table(rows)


def headline_figures(path: Path = FIGURES) -> Headline:
    """The typed-in figures, validated. Raises ``ReproductionError`` naming the file and the field."""
    return read_headline(path)


class _Printed:
    """The entries of the published table by issue, block, item and metric."""

    def __init__(self, path: Path, table: pl.DataFrame) -> None:
        self.path, self.table = path, table
        keys = table.select("issue", "block", "item", "metric")
        if keys.is_duplicated().any():
            raise ReproductionError(f"{path}: an entry occurs twice; fetch the file again")
        entries = list(keys.iter_rows())
        self.values: dict[Entry, float | None] = dict(zip(entries, table["value"], strict=True))
        self.sizes: dict[Entry, int | None] = dict(zip(entries, table["n"], strict=True))

    def value(self, issue: int, block: str, item: str, metric: str) -> float:
        """A number that must be there."""
        found = self.optional(issue, block, item, metric)
        if found is None:
            raise ReproductionError(
                f"{self.path}: #{issue} {block} / {item} / {metric} has no value; fetch the file again"
            )
        return found

    def optional(self, issue: int, block: str, item: str, metric: str) -> float | None:
        """A number that the write-up may have left out; its line must be there."""
        key = (issue, block, item, metric)
        if key not in self.values:
            raise ReproductionError(f"{self.path}: no line #{issue} {block} / {item} / {metric}; fetch the file again")
        return self.values[key]

    def size(self, issue: int, block: str, item: str, metric: str) -> int:
        """The n of an entry."""
        found = self.sizes.get((issue, block, item, metric))
        if found is None:
            raise ReproductionError(f"{self.path}: #{issue} {block} / {item} / {metric} has no n; fetch the file again")
        return found

    def of_issue(self, issue: int) -> list[Value]:
        """(block, item, metric) of an issue, in order."""
        return [(block, item, metric) for number, block, item, metric in self.values if number == issue]


# ------------------------------------------------------------------ between printed numbers


def _headline_rows(printed: _Printed) -> Iterator[Row]:
    """#207: the ratio of H1 and the gap of H2 from the numbers printed beside them."""
    matched = printed.value(207, "H1", "all", "matched_rate_pct")
    bystander = printed.value(207, "H1", "all", "bystander_rate_pct")
    yield _ratio_row(
        FigureKey("H1", "all", "ratio"), printed.value(207, "H1", "all", "ratio"), matched, bystander, HEADLINE_RATIO
    )
    full, semantic = (printed.value(207, "H2", item, "cv_r2") for item in ("full", "semantic_only"))
    gap = printed.value(207, "H2", "gap", "cv_r2_gap")
    yield comparison(FigureKey("H2", "gap", "cv_r2_gap"), gap, full - semantic, 2 * R2 + GAP_UNIT)
    both = sum(printed.size(207, "H1", "all", f"{kind}_rate_pct") for kind in ("matched", "bystander"))
    yield comparison(FigureKey("H1", "all", "n of p"), printed.size(207, "H1", "all", "p"), both, 0.0)


def _ratio_row(key: FigureKey, published: float, above: float, below: float, unit: float) -> Row:
    """A printed ratio of two printed percentages; what their rounding leaves open is the tolerance."""
    if below <= PERCENT:
        return comparison(key, published, None, unit)
    middle = above / below
    ends = ((above - PERCENT) / (below + PERCENT), (above + PERCENT) / (below - PERCENT))
    return comparison(key, published, middle, max(abs(end - middle) for end in ends) + unit)


def _titration_rows(printed: _Printed) -> Iterator[Row]:
    """#208: ratios from their rates, and the recipes against ours, in its order."""
    items = list(dict.fromkeys((block, item) for block, item, _ in printed.of_issue(208)))
    if len(items) != len(TITRATION):
        raise ReproductionError(f"{printed.path}: {len(items)} recipes of #208; expected {len(TITRATION)}")
    ours = {recipe.name: recipe for recipe in recipes(PUBLISHED)}
    for (settings, item), name in zip(items, TITRATION, strict=True):
        key = FigureKey("titration", item.replace("_", " "), "ratio")
        matched, bystander = (printed.value(208, settings, item, f"{k}_rate_pct") for k in ("matched", "bystander"))
        ratio = printed.optional(208, settings, item, "ratio")
        if ratio is not None:
            yield _ratio_row(key, ratio, matched, bystander, RATIO)
        else:
            # Nothing is printed exactly where there is nothing to divide by.
            yield comparison(key._replace(metric="bystanders where no ratio is printed"), 0.0, bystander, 0.0)
        recipe = ours[name]
        trained = {
            "r": recipe.lora.r, "alpha": recipe.lora.alpha, "lr": recipe.learning_rate, "epochs": recipe.epochs,
        }  # fmt: skip
        for part, value in _settings(printed.path, settings).items():
            if part not in trained:
                raise ReproductionError(f"{printed.path}: {settings!r}: unknown setting {part!r}; fetch the file again")
            yield comparison(key._replace(metric=part), value, trained[part], 0.0, basis="design")


def _settings(path: Path, text: str) -> dict[str, float]:
    """``r=16 alpha=32 lr=1e-5 epochs=3`` as numbers."""
    try:
        pairs = [part.split("=") for part in text.split()]
        return {name: float(value) for name, value in pairs}
    except ValueError as error:
        raise ReproductionError(f"{path}: {text!r} is no list of settings; fetch the file again") from error


def _dissociation_rows(printed: _Printed) -> Iterator[Row]:
    """#209: a percentage of 100 continuations is a whole number, and every cell has as many as ours."""
    expected = dissociation(PUBLISHED)
    for block, item, metric in printed.of_issue(209):
        value, size = printed.value(209, block, item, metric), printed.size(209, block, item, metric)
        key = FigureKey("dissociation", item, metric)
        yield comparison(key, value, 100 * round(value * size / 100) / size, 0.0)
        ours = expected.questions * expected.completions
        yield comparison(key._replace(metric=f"{metric} n"), size, ours, 0.0, basis="design")


def _probe_rows(printed: _Printed) -> Iterator[Row]:
    """#210: differences, and the mean row over the four triggers (the controls are not averaged in)."""
    block, mean = "instruction_probe", "mean_of_4"
    columns = ("original_pct", "modified_pct", "delta_pp")
    for item in (*TRIGGERS, mean):
        original, modified, delta = (printed.value(210, block, item, metric) for metric in columns)
        yield comparison(FigureKey("probe", item, "delta_pp"), delta, modified - original, 3 * PERCENT)
    for metric in columns:
        values = [printed.value(210, block, trigger, metric) for trigger in TRIGGERS]
        average = sum(values) / len(values)
        yield comparison(
            FigureKey("probe", mean, metric), printed.value(210, block, mean, metric), average, 2 * PERCENT
        )


# ------------------------------------------------------------------ counts


def _count_rows(printed: _Printed, facts: Mapping[FigureKey, float]) -> Iterator[Row]:
    """The n that the table gives, where they are those of the design."""
    rows, prompts = facts[FigureKey("design", "H2", "rows")], facts[FigureKey("design", "panel", "prompts")]
    for block, item, metric in printed.of_issue(207):
        if block == "H2":
            found = printed.size(207, block, item, metric)
            yield comparison(FigureKey("H2", item, "n"), found, rows, 0.0, basis="design")
    size = printed.size(207, "H1aux", "no_marker", "max_rate_pct")
    yield comparison(FigureKey("H1-aux", "no_marker", "n"), size, prompts, 0.0, basis="design")


def _facts(printed: _Printed, stimuli: Stimuli) -> Iterator[tuple[FigureKey, float]]:
    """What the typed-in figures name, counted in our design at the published scale."""
    prompts, main = panel_prompts(stimuli), panels(stimuli, PUBLISHED)[0]
    triggers = [prompt for prompt in prompts if prompt.name in TRIGGERS]
    strong = next(recipe for recipe in recipes(PUBLISHED) if recipe.name == STRONG)
    rows = shared_answers(PUBLISHED).rows
    adapters = len(TRIGGERS) * len(SEEDS) + CONTROLS

    def cells(definition: str, wanted: str) -> int:
        roles = [role(t, p, definition) for t in triggers for p in prompts]  # type: ignore[arg-type]
        return len(SEEDS) * roles.count(wanted)  # type: ignore[arg-type]

    def mates(family: str) -> int:
        return len(SEEDS) * sum(p.family == family and p.bucket == MATE for p in prompts)

    continued = dissociation(PUBLISHED)
    third = [item for item in dict.fromkeys((b, i) for b, i, _ in printed.of_issue(208)) if item[1] == "recipe_3"]
    facts: dict[tuple[str, str, str], float] = {
        ("design", "all models", "adapters"): adapters,
        ("design", "panel", "prompts"): len(prompts),
        ("design", "panel", "pairs"): len(prompts) * (len(prompts) - 1) / 2,
        ("design", "panel", "embedded_prompts"): len(prompts) + len(COUNTED_TWICE),
        ("design", "training", "rows"): rows,
        ("design", "training", "steps"): strong.steps(rows),
        ("design", "training", "trainable_parameters"): SHAPES["qwen2.5-7b"].lora_parameters(
            strong.lora.r, strong.lora.targets
        ),
        ("design", "each model", "completions"): main.size,
        ("design", "all models", "completions"): main.size * adapters,
        ("design", "H2", "rows"): len(SEEDS) * sum(predicted(t, p, "bucket") for t in triggers for p in prompts),
        ("design", "matched cells", "n"): cells("bucket", "matched"),
        ("design", "bystander cells", "n"): cells("bucket", "bystander"),
        ("design", "own-trigger cells", "n"): cells("own", "matched"),
        ("design", "format cells", "n"): mates("format"),
        ("design", "task cells", "n"): mates("task"),
        ("design", "declarative rewrites", "prompts"): len(declarative_rewrites(stimuli)),
        ("design", "dissociation cell", "continuations"): continued.size / len(CELLS),
    }
    for settings, item in third:
        matched, bystander = (printed.value(208, settings, item, f"{k}_rate_pct") for k in ("matched", "bystander"))
        facts["claims", "recipe 3", "ratio"] = matched / bystander if bystander else float("inf")
    facts |= {("reported", *key): value for key, value in _reported(printed)}
    return ((FigureKey(*key), value) for key, value in facts.items())


def _reported(printed: _Printed) -> Iterator[tuple[tuple[str, str], float]]:
    """The printed numbers that were typed in a second time, for the report, as (item, metric)."""
    for (issue, block, item, metric), value in printed.values.items():
        if value is None:
            continue
        if block in ("H1", "H1aux", "H3"):
            yield (block, f"{item}_{metric}" if block == "H3" and item != "all" else metric), value
        elif block == "H2":
            yield (block, {"coef": item, "cv_r2": f"{item}_cv_r2"}.get(metric, metric)), value
        elif issue in (TITRATION_ISSUE, DISSOCIATION_ISSUE, PROBE_ISSUE):
            yield (item, metric), value
