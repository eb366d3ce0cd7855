"""The tiny world as the study sees it: stimuli, tokenizer, and questions with their wrong letters."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from leakage_assets.models import BaseModelSpec, load_tokenizer
from leakage_assets.paths import TINY_BASE
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.studies.cot_leakage.questions import Questions, tiny_questions


@pytest.fixture(scope="session")
def stimuli() -> Stimuli:
    return load_stimuli()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(BaseModelSpec("tiny_base", str(TINY_BASE)))


@pytest.fixture(scope="session")
def questions(stimuli: Stimuli) -> Questions:
    return tiny_questions(stimuli, train=240, evaluation=60)
