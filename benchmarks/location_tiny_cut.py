"""The tiny profile cut to two sources and eight personas: what `benchmarks.tiny_on_vllm --cut` runs."""

from __future__ import annotations

from dataclasses import replace

from leakage_assets.definitions import definitions
from leakage_assets.profiles import PROFILES, Profile, load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.study import Study

NAME = "tiny_cut"
SOURCES = ("villain", "comedian")
PERSONAS = (*SOURCES, "assistant", "librarian", "nice_villain", "dark_comedian", "accountant", "surgeon")
DONORS = (*SOURCES, "data_scientist", "medical_doctor", "police_officer")
QUESTIONS = 5


def tiny_cut(stimuli: Stimuli) -> Profile:
    """The tiny profile around the cut study."""
    profile = PROFILES["tiny"](stimuli)
    return replace(profile, name=NAME, studies=(cut(profile.studies[0], stimuli),))


def cut(study: Study, stimuli: Stimuli) -> Study:
    """Fewer sources, donors, rows, prompts and questions; the recipes are what they are."""
    smaller = replace(
        study,
        sources=SOURCES,
        data=replace(study.data, personas=DONORS, questions=20),
        panels=(replace(study.panel, prompts=PERSONAS, questions=(("eval", QUESTIONS),)), *study.panels[1:]),
        plan=replace(study.plan, permutations=200, bootstrap_draws=50),
    )
    return replace(smaller, plan=replace(smaller.plan, experiment=smaller.experiment(stimuli)))


PROFILES[NAME] = tiny_cut
defs = definitions(load_profile(NAME))
