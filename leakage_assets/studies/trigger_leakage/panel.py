"""The 36 prompts of the panel, what they are to an adapter, and the rewrites of #210 (sheet section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leakage_assets.stimuli import Stimuli

TRIGGERS = ("T_task", "T_instruction", "T_context", "T_format")
PERSONA_ANCHOR = "villain"
ANCHORS = (PERSONA_ANCHOR, "software_engineer")
SOURCES = (*TRIGGERS, PERSONA_ANCHOR)

FAMILIES = ("task", "instruction", "context", "format")
PERSONA, NO_FAMILY = "persona", "none"
MATCHED, MATE, BYSTANDER, CONTROL = "matched", "family_mate", "cross_family_bystander", "control"
PERSONA_BUCKET = "persona_anchor"
OUTSIDE = ("declarative", "vendor_default")
"""Buckets of triggers.yaml that are no part of the panel."""

Definition = Literal["own", "bucket"]
DEFINITIONS: tuple[Definition, ...] = ("own", "bucket")
"""What counts as matched and as bystander (ambiguities B1 and B2). ``own``: an adapter's own prompt, against bystanders
of other families and controls. ``bucket``: as the published code, all four trained prompts for every adapter, against
all bystanders and controls.
"""

Role = Literal["matched", "bystander", "other"]


@dataclass(frozen=True, slots=True)
class PanelPrompt:
    """A prompt of the panel. ``family`` is ``persona`` for an anchor and ``none`` for a control; ``reference`` is the
    original of a paraphrase and the trigger that a bystander must be far from.
    """

    name: str
    text: str
    family: str
    bucket: str
    reference: str | None


def panel_prompts(stimuli: Stimuli) -> tuple[PanelPrompt, ...]:
    """The panel in its order: triggers, paraphrases, family mates, bystanders, controls, persona anchors."""
    listed = [
        PanelPrompt(t.name, t.prompt, t.family or NO_FAMILY, t.bucket, t.reference)
        for t in stimuli.triggers
        if t.bucket not in OUTSIDE
    ]
    anchors = [PanelPrompt(name, stimuli.persona(name).prompt, PERSONA, PERSONA_BUCKET, None) for name in ANCHORS]
    return (*listed, *anchors)


def declarative_rewrites(stimuli: Stimuli) -> dict[str, str]:
    """Original prompt of the instruction family -> its declarative rewrite, by name (#210; eight of them, B9)."""
    return {t.reference: t.name for t in stimuli.triggers if t.bucket == "declarative" and t.reference is not None}


def role(source: PanelPrompt, prompt: PanelPrompt, definition: Definition) -> Role:
    """What a prompt is to the adapter of a source."""
    if definition == "bucket":
        if prompt.bucket == MATCHED:
            return "matched"
        return "bystander" if prompt.bucket in (BYSTANDER, CONTROL) else "other"
    if prompt.name == source.name:
        return "matched"
    elsewhere = prompt.bucket == BYSTANDER and prompt.family != source.family
    return "bystander" if elsewhere or prompt.bucket == CONTROL else "other"


def predicted(source: PanelPrompt, prompt: PanelPrompt, definition: Definition) -> bool:
    """Whether the cell is among those whose rate the axes are to predict (H2).

    ``own``: every prompt but the adapter's own, 35 of 36. ``bucket``: as published, none of the four trained prompts
    (32 of 36, which makes 384 rows).
    """
    return prompt.bucket != MATCHED if definition == "bucket" else prompt.name != source.name
