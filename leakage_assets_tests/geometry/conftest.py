"""The random base model and its adapters."""

from leakage_assets_tests.fixtures_models import base, base_folder, trained, trained_otherwise

__all__ = ["base", "base_folder", "trained", "trained_otherwise"]
