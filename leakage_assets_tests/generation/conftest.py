"""The random base model and its adapters, and the engines."""

from leakage_assets_tests.fixtures_models import base, base_folder, trained, trained_otherwise
from leakage_assets_tests.generation.engines import bench, engine, vllm_engine

__all__ = ["base", "base_folder", "bench", "engine", "trained", "trained_otherwise", "vllm_engine"]
