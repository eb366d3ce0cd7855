"""The prompts, questions and words every study is made of: typed, checked, and located when wrong."""

from leakage_assets.stimuli.loading import load_stimuli
from leakage_assets.stimuli.problems import Problem, StimuliError
from leakage_assets.stimuli.schema import (
    Persona,
    Question,
    QuestionSet,
    Stimuli,
    Topic,
    Traits,
    Trigger,
    World,
    stimuli_digest,
    stimuli_snapshot,
)

__all__ = [
    "Persona",
    "Problem",
    "Question",
    "QuestionSet",
    "Stimuli",
    "StimuliError",
    "Topic",
    "Traits",
    "Trigger",
    "World",
    "load_stimuli",
    "stimuli_digest",
    "stimuli_snapshot",
]
