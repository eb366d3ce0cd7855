"""How far apart donor and recipient are in the base model: computed, never labelled by hand (C3)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from leakage_assets.studies.two_marker_chunk.arms import Pair


def distance_table(pairs: Sequence[Pair], similarity: pl.DataFrame) -> pl.DataFrame:
    """The cosine of each pair's centroids at every layer, closest pair first.

    ``similarity``: layer, source, prompt_name, value, with either persona of a pair as the source (a cosine is the same
    both ways). Columns: layer, source (the pair's name), donor, recipient, cosine, closeness (1 for the closest pair of
    the layer; pairs of one cosine share it); cosine and closeness are null where the table lacks the pair.
    """
    names = pl.DataFrame(
        [(pair.name, pair.donor, pair.recipient) for pair in pairs],
        schema=["source", "donor", "recipient"],
        orient="row",
    )
    values = similarity.select("layer", "source", "prompt_name", "value")
    both = pl.concat(
        [
            values.rename({"source": "donor", "prompt_name": "recipient"}),
            values.rename({"prompt_name": "donor", "source": "recipient"}).select(
                "layer", "donor", "recipient", "value"
            ),
        ]
    ).unique(["layer", "donor", "recipient"], keep="first", maintain_order=True)
    layers = similarity.select("layer").unique().sort("layer")
    return (
        layers.join(names, how="cross")
        .join(both, on=["layer", "donor", "recipient"], how="left")
        .rename({"value": "cosine"})
        .with_columns(pl.col("cosine").rank("min", descending=True).over("layer").cast(pl.Int64).alias("closeness"))
        .sort("layer", "closeness", "source", nulls_last=True)
    )
