"""Section Design of the report of marker leakage: what was trained, asked and measured, and every recipe."""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import Block, Bullets
from leakage_assets.studies.citations import Citations, code_list
from leakage_assets.studies.report_parts import layer_list, recipe_table, sampling


def design(cite: Citations) -> Iterator[Block]:
    fact = cite.fact
    yield Bullets(
        (
            f"**Sources:** {code_list(cite.study.sources)}.",
            f"**Panel:** {fact('panel', 'prompts')} personas, so {fact('panel', 'bystanders')} bystanders per "
            f"source; {fact('panel', 'questions')} questions; completions of each: "
            f"{fact('panel', 'completions')}, in all {fact('panel', 'size', spec=',d')} per adapter.",
            sampling(cite),
            f"**Training rows:** {fact('training_set', 'rows')} per adapter, {fact('training_set', 'positives')} "
            f"of the source (with the marker) and {fact('training_set', 'negatives')} of others (without): the "
            f"base model's own answers to {fact('data', 'questions')} questions, {fact('data', 'answers')} per "
            f"question and persona, drawn at temperature {fact('data', 'temperature')}.",
            f"**Geometry:** hidden state of the last input token, averaged over the questions, centred on the "
            f"panel; primary layer {cite.planned('primary_layer')} of {layer_list(cite)} (block outputs, "
            "from zero).",
            f"**Seeds planned:** {fact('coverage', 'seed_names')}.",
            f"**Statistics:** {cite.planned('permutations', spec=',d')} permutations, "
            f"{cite.planned('bootstrap_draws', spec=',d')} bootstrap resamples, resampling seed "
            f"{cite.planned('resampling_seed')}.",
        )
    )
    yield recipe_table(cite)
    yield cite.context.training_row
