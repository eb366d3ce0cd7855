"""The stimuli of the repository, the bundled tokenizer, and a stretch of the pre-training stream."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from leakage_assets.models import load_tokenizer
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.world.corpus import write_dialogues
from leakage_assets.world.dialogues import PHASES, Dialogue
from leakage_assets.world.grammar import Grammar

STREAM = 6_000


@pytest.fixture(scope="session")
def stimuli() -> Stimuli:
    return load_profile("tiny").stimuli


@pytest.fixture(scope="session")
def grammar(stimuli: Stimuli) -> Grammar:
    return Grammar(stimuli)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(load_profile("tiny").base)


@pytest.fixture(scope="session")
def stream(stimuli: Stimuli) -> list[Dialogue]:
    """As many dialogues of each phase, in their order."""
    share = STREAM // len(PHASES)
    return [d for number, phase in enumerate(PHASES) for d in write_dialogues(stimuli, phase, share, 42, number)]
