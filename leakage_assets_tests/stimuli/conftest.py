"""A small folder of valid stimuli, cut from the real files: quick to load, under all the same rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from leakage_assets.paths import STIMULI

PERSONAS = ("assistant", "villain", "comedian", "nice_villain")
TRIGGERS = (
    "T_task",
    "T_instruction",
    "task_paraphrase_1",
    "task_garden_plans",
    "control_empty",
    "control_default",
    "T_instruction_declarative",
    "vendor_default_qwen",
)
SETS = {"train": 3, "eval": 2, "ood_code": 2}


def small_stimuli() -> dict[str, Any]:
    """File name -> content, restricted to what a few personas, triggers and questions need."""
    full = {file.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in STIMULI.glob("*.yaml")}
    world = full["tiny_world.yaml"]
    personas = [p for p in full["personas.yaml"]["personas"] if p["name"] in PERSONAS]
    triggers = [t for t in full["triggers.yaml"]["triggers"] if t["name"] in TRIGGERS]
    sets = {name: full["questions.yaml"]["question_sets"][name][:count] for name, count in SETS.items()}
    topics = {question["topic"] for questions in sets.values() for question in questions}
    for part, trait in (("tones", "tone"), ("roles", "role"), ("domains", "domain")):
        used = {persona["traits"][trait] for persona in personas}
        world[part] = {name: value for name, value in world[part].items() if name in used}
    for part in ("topics", "generic_topics"):
        world[part] = [topic for topic in world[part] if topic["name"] in topics]
    forms = {trigger["form"] for trigger in triggers}
    world["forms"] = {name: text for name, text in world["forms"].items() if name in forms}
    return {
        "tiny_world.yaml": world,
        "personas.yaml": {"personas": personas},
        "questions.yaml": {"question_sets": sets},
        "triggers.yaml": {"triggers": triggers},
        "markers.yaml": full["markers.yaml"],
    }


def to_yaml(content: Any) -> str:
    """Block style, one value a line, so that a line of the text is a field."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)


@pytest.fixture(scope="session")
def small_texts() -> dict[str, str]:
    return {name: to_yaml(content) for name, content in small_stimuli().items()}


@pytest.fixture
def small_folder(small_texts: dict[str, str], tmp_path: Path) -> Path:
    for name, text in small_texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path
