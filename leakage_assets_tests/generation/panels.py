"""A small panel of requests."""

from __future__ import annotations

from leakage_assets.generation.requests import Request, Sampling
from leakage_assets_tests.fixtures_models import VILLAIN

SAMPLING = Sampling(2.0, 0.95, 20)
CELL = "study/villain__quick/42"
OTHER = "study/engineer__quick/7"
PANEL = {"villain": VILLAIN, "kind": "You are kind.", "default": None, "empty": ""}


def panel(adapter: str, completions: int = 3) -> list[Request]:
    return [
        Request(adapter, name, system, "eval", question, f"{question} is it?", index)
        for index in range(completions)
        for name, system in PANEL.items()
        for question in ("what", "how")
    ]
