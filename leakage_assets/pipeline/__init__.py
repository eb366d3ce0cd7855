"""The stages of a lineage as plain functions: identity, look-up, work, artifact. Dagster calls them; so can you."""
