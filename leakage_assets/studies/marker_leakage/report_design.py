"""Section Design of the report of marker leakage: what was trained, asked and measured, and every recipe."""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import Block, Bullets, Column, Table
from leakage_assets.studies.marker_leakage.report_citations import Citations, Row, code_list


def design(cite: Citations) -> Iterator[Block]:
    fact = cite.fact
    yield Bullets(
        (
            f"**Sources:** {code_list(cite.study.sources)}.",
            f"**Panel:** {fact('panel', 'prompts')} personas, so {fact('panel', 'bystanders')} bystanders per "
            f"source; {fact('panel', 'questions')} questions; completions of each: "
            f"{fact('panel', 'completions')}, in all {fact('panel', 'size', spec=',d')} per adapter.",
            f"**Sampling:** temperature {fact('panel', 'temperature')}, top-p {fact('panel', 'top_p')}, at most "
            f"{fact('panel', 'max_new_tokens')} new tokens. The marker counts wherever it stands, in any case.",
            f"**Training rows:** {fact('training_set', 'rows')} per adapter, {fact('training_set', 'positives')} "
            f"of the source (with the marker) and {fact('training_set', 'negatives')} of others (without): the "
            f"base model's own answers to {fact('data', 'questions')} questions, {fact('data', 'answers')} per "
            f"question and persona, drawn at temperature {fact('data', 'temperature')}.",
            f"**Geometry:** hidden state of the last input token, averaged over the questions, centred on the "
            f"panel; primary layer {cite.planned('primary_layer')} of {_layer_list(cite)} (block outputs, "
            "from zero).",
            f"**Seeds planned:** {fact('coverage', 'seed_names')}.",
            f"**Statistics:** {cite.planned('permutations', spec=',d')} permutations, "
            f"{cite.planned('bootstrap_draws', spec=',d')} bootstrap resamples, resampling seed "
            f"{cite.planned('resampling_seed')}.",
        )
    )
    yield _recipe_table(cite)
    yield cite.context.training_row


def _layer_list(cite: Citations) -> str:
    bound = [cite.context.planned("layers", i, value=layer) for i, layer in enumerate(cite.plan.layers)]
    return ", ".join(map(cite.bind, bound))


def _recipe_table(cite: Citations) -> Table:
    columns = (
        Column("recipe", "recipe"),
        Column("loss", "loss on"),
        Column("tail_target", "tail token", explanation="which token after the answer carries loss as well"),
        Column("teaches_marker", "taught", explanation="whether the source's rows end with the marker"),
        Column("lora", "rank, alpha"),
        Column("learning_rate", "rate", ".0e", "peak learning rate"),
        Column("epochs", "epochs", "d"),
        Column("finished", "cells", explanation="finished cells in the analysis, of those planned"),
    )
    rows = []
    for name in cite.facts["recipes"]:
        row: Row = {
            c.key: cite.context.fact("recipes", name, c.key, spec=c.format)
            for c in columns
            if c.key in cite.facts["recipes"][name]
        }
        rank, alpha, cells, planned = (
            cite.fact("recipes", name, key) for key in ("rank", "alpha", "cells", "cells_planned")
        )
        words: Row = {
            "recipe": f"`{name}`{cite.role(name)}",
            "lora": f"{rank}, {alpha}",
            "finished": f"{cells} of {planned}",
        }
        rows.append(row | words)
    return Table("Recipes and the cells that are finished.", columns, tuple(rows))
