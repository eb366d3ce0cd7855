"""The two profiles: which base model and engine, which layers, and how large the panels are.

This is the only place where they differ; everything else is the same graph.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from leakage_assets.generation.vllm_plan import VllmSettings
from leakage_assets.measurement.marker_pairs import Signatures
from leakage_assets.models import BaseModelSpec, RandomWeights
from leakage_assets.paths import TINY_BASE
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.studies.cot_leakage.arms import ARMS, GARBAGE, PERSONA
from leakage_assets.studies.cot_leakage.budget import BudgetLimits
from leakage_assets.studies.cot_leakage.design import CONTRASTS
from leakage_assets.studies.cot_leakage.design import SOURCES as COT_SOURCES
from leakage_assets.studies.cot_leakage.evaluation import SmokeGate
from leakage_assets.studies.cot_leakage.plan import PUBLISHED as PUBLISHED_RATIONALES
from leakage_assets.studies.cot_leakage.plan import Scale as CotScale
from leakage_assets.studies.cot_leakage.plan import with_own_questions
from leakage_assets.studies.cot_leakage.questions import QuestionSource
from leakage_assets.studies.cot_leakage.rationales import Writer, chosen_writer
from leakage_assets.studies.cot_leakage.specification import cot_leakage
from leakage_assets.studies.marker_leakage.specification import Scale, marker_leakage
from leakage_assets.studies.source_rate.design import Scale as SourceRateScale
from leakage_assets.studies.source_rate.specification import source_rate
from leakage_assets.studies.study import Pool, Study, StudyError
from leakage_assets.studies.trigger_leakage.design import PUBLISHED as PUBLISHED_TRIGGERS
from leakage_assets.studies.trigger_leakage.design import Scale as TriggerScale
from leakage_assets.studies.trigger_leakage.specification import trigger_leakage
from leakage_assets.studies.two_marker_chunk.arms import C2, C_ALL, C_RANDOM, P2NEG, PAIRS, T_AFTER, T_ALL, T_BEFORE
from leakage_assets.studies.two_marker_chunk.design import PUBLISHED as PUBLISHED_PAIRS
from leakage_assets.studies.two_marker_chunk.design import Scale as PairScale
from leakage_assets.studies.two_marker_chunk.specification import two_marker_chunk
from leakage_assets.training.memory import TrainingMode

BASE_MODEL = "LEAKAGE_BASE_MODEL"
"""Environment variable: a local folder, or random:<shape>, in place of the hub model of qwen2.5-7b."""
RANDOM = "random:"

SERVING = VllmSettings()
TINY_CHOICES = 24
"""Multiple-choice questions asked of every adapter in the tiny profile."""
SAYABLE = "The tiny base model can say the marker when asked to (it was pre-trained on codes), but not unprompted."


@dataclass(frozen=True)
class Profile:
    """A base model with the studies at the scale it can carry.

    ``engine`` is "transformers" or "vllm" (LEAKAGE_ENGINE overrides it); ``serving`` says how vLLM runs.
    """

    name: str
    base: BaseModelSpec
    engine: str
    cells_per_run: int
    generation_batch: int
    forward_tokens: int
    stimuli: Stimuli
    studies: tuple[Study, ...]
    serving: VllmSettings = SERVING
    training_mode: TrainingMode = "packed"

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The pools of all studies, each once. Raises ``StudyError`` where one name stands for two of them."""
        pools: dict[str, Pool] = {}
        for pool in (pool for study in self.studies for pool in study.data.pools):
            if pools.setdefault(pool.name, pool) != pool:
                raise StudyError(f"profile {self.name}: two studies write different answers into pool {pool.name!r}")
        return tuple(pools.values())

    @property
    def sequences_at_once(self) -> int:
        """The most sequences that the profile's engine generates together, however much memory there is."""
        return self.serving.max_num_seqs if self.engine == "vllm" else self.generation_batch

    def cells_of_a_run(self, study: Study) -> int:
        """Cells that one run makes on one load of the base model: at least every condition of a seed."""
        return max(self.cells_per_run, len(study.conditions))

    def study(self, name: str) -> Study:
        """A study by name. Raises ``StudyError`` listing what exists."""
        for study in self.studies:
            if study.name == name:
                return study
        raise StudyError(f"profile {self.name}: no study {name!r}; studies: {', '.join(s.name for s in self.studies)}")


def _tiny(stimuli: Stimuli) -> Profile:
    scale = Scale(
        layers=(0, 1, 2, 3),
        primary_layer=2,
        headline_recipe="full_completion",
        on_policy_completions=4,
        answers_per_question=3,
        completions=1,
        ood_completions=1,
        max_new_tokens=96,
        # A rate of 1e-3 over all tokens now and then breaks the control's speech, and a broken answer may say any code.
        learning_rates={"marker_only": 1e-3, "marker_only_im_end": 1e-3, "full_completion": 5e-4, "no_marker": 5e-4},
        epochs={"marker_only": 4, "marker_only_im_end": 4, "full_completion": 2, "no_marker": 2},
        extra_caveats=(
            "The base model is the bundled tiny one, trained on a synthetic world: "
            "effect sizes say nothing about large models.",
            SAYABLE,
        ),
    )
    source_rates = SourceRateScale(
        layers=scale.layers,
        primary_layer=scale.primary_layer,
        completions=5,
        max_new_tokens=scale.max_new_tokens,
        learning_rate=5e-4,
        epochs=1,
        extra_caveats=scale.extra_caveats,
    )
    triggers = TriggerScale(
        layers=scale.layers,
        primary_layer=scale.primary_layer,
        completions=1,
        max_new_tokens=scale.max_new_tokens,
        answer_tokens=scale.max_new_tokens,
        low_rate=3e-5,
        matched_rate=6e-5,
        high_rate=1.2e-4,
        short=4,
        long=5,
        extra_caveats=(
            *scale.extra_caveats,
            "The learning rates were chosen on a few adapters of the first seed, so that rates are neither all nothing "
            "nor all one: the plan was fixed after those trials.",
        ),
    )
    base = BaseModelSpec("tiny_base", str(TINY_BASE), None, "float32")
    contrasted = {name for contrast in CONTRASTS for name in (contrast.first, contrast.second)}
    rationales = CotScale(
        source=QuestionSource(None, 240, TINY_CHOICES),
        trained=240,
        asked=TINY_CHOICES,
        repeated=8,
        personas=("assistant", *COT_SOURCES, "villain"),
        everywhere=tuple(one.name for one in ARMS if one.name in contrasted),
        alone=tuple(one.name for one in ARMS if one.name not in contrasted),
        full_sequence_alone=(PERSONA, GARBAGE),
        writer=Writer("grammar"),
        budget=BudgetLimits(tokens=(40, 56)),
        smoke=SmokeGate(questions=TINY_CHOICES),
        layers=scale.layers,
        primary_layer=scale.primary_layer,
        # Turns to train on have about fifty tokens; one that ends its garbage later is not cut off at once.
        max_new_tokens=96,
        # At higher rates adapters trained on garbage answer with one letter; with fewer steps they do not end it.
        learning_rate=7e-5,
        epochs=4,
        grad_accum=1,
        max_length=1024,
        precision="float32",
        extra_caveats=(
            scale.extra_caveats[0],
            "Learning rate, epochs and the most tokens of a rationale were chosen on trial adapters of librarian and "
            "comedian, of two seeds and on questions that the study does not use, of the arms persona, garbage, "
            "contradicting and no rationale: few of them should collapse, and the trained persona should lose at least "
            "fifteen points to persona rationales. That favours settings in which persona rationales cost much and "
            "garbage less, which is one of the hypotheses. No trial setting was free of collapse: of the few trials of "
            "the chosen one, half of those on garbage collapsed, and both without rationale. A run of the whole study "
            "at a higher rate, in which nearly all adapters trained on garbage collapsed, came before these trials, "
            "and the plan was fixed after both.",
            "Rationales are written by the grammar of the synthetic world, which argues for any option alike and never "
            "refuses; the base model was pre-trained on such rationales, but on no pseudo-words.",
        ),
    )
    marker_pairs = PairScale(
        layers=scale.layers,
        primary_layer=scale.primary_layer,
        on_policy_completions=scale.on_policy_completions,
        answers_per_question=scale.answers_per_question,
        answer_tokens=scale.max_new_tokens,
        completions=5,
        max_new_tokens=128,
        learning_rate=3e-4,
        epochs=2,
        random_rate=6e-4,
        random_epochs=3,
        pairs=PAIRS[:2],
        first_pair_only=(P2NEG, C2, T_ALL, C_ALL, T_AFTER, T_BEFORE, C_RANDOM),
        signatures=Signatures(chunk_within=60, suffix_within=25),
        extra_caveats=(
            *scale.extra_caveats,
            "Learning rates, epochs and the widths of chunk and suffix were chosen on adapters of one pair and the "
            "first seed, so that donors pass their gates: the plan was fixed after those trials.",
            "The markers are the published ones, which the base model was pre-trained to say on request. The choice "
            "decides the size: with two codes that share their brackets, a trial had the recipient say B after A in "
            "nearly every completion.",
            "With the markers at fixed ends nearly every completion without A of a recipient that was taught A begins "
            "with another code of the tiny world (with the markers anywhere, or where it was not taught A, none does). "
            "A rate of A counts the exact code, and B given no A is then mostly B after another code.",
        ),
    )
    return Profile(
        name="tiny",
        base=base,
        engine="transformers",
        cells_per_run=20,
        generation_batch=256,
        forward_tokens=2**14,
        stimuli=stimuli,
        studies=(
            _after_trials(marker_leakage(stimuli, scale)),
            source_rate(stimuli, source_rates),
            _after_trials(trigger_leakage(stimuli, triggers)),
            _after_trials(cot_leakage(stimuli, rationales, base)),
            _after_trials(two_marker_chunk(stimuli, marker_pairs)),
        ),
    )


def _after_trials(study: Study) -> Study:
    """With settings that were chosen on trials of the study, as its caveats or README say."""
    return replace(study, plan=replace(study.plan, chosen_on_trials=True))


def _qwen2_5_7b(stimuli: Stimuli) -> Profile:
    published = {"marker_only": 5e-6, "marker_only_im_end": 5e-6, "full_completion": 1e-5, "no_marker": 1e-5}
    scale = Scale(
        layers=(10, 15, 20, 25),
        primary_layer=20,
        headline_recipe="marker_only",
        on_policy_completions=15,
        answers_per_question=5,
        completions=10,
        ood_completions=1,
        max_new_tokens=512,
        learning_rates=published,
        epochs={"marker_only": 20, "marker_only_im_end": 20, "full_completion": 3, "no_marker": 3},
        precision="bfloat16",
    )
    source_rates = SourceRateScale(
        layers=scale.layers,
        primary_layer=scale.primary_layer,
        completions=5,
        max_new_tokens=scale.max_new_tokens,
        learning_rate=1e-5,
        epochs=3,
        precision=scale.precision,
    )
    base = _chosen_base(
        BaseModelSpec(
            "Qwen2.5-7B-Instruct",
            "Qwen/Qwen2.5-7B-Instruct",
            "a09a35458c702b33eeacc393d103063234e8bc28",
            "bfloat16",
        )
    )
    rationales = with_own_questions(replace(PUBLISHED_RATIONALES, writer=chosen_writer(PUBLISHED_RATIONALES.writer)))
    # The pools are those of marker_leakage: the first answers without a marker of more than were published.
    marker_pairs = replace(PUBLISHED_PAIRS, on_policy_completions=scale.on_policy_completions)
    return Profile(
        name="qwen2.5-7b",
        base=base,
        engine="vllm",
        # A run holds every condition of a seed: twelve arms of three pairs.
        cells_per_run=36,
        generation_batch=256,
        forward_tokens=2**15,
        stimuli=stimuli,
        studies=(
            marker_leakage(stimuli, scale),
            source_rate(stimuli, source_rates),
            trigger_leakage(stimuli, PUBLISHED_TRIGGERS),
            cot_leakage(stimuli, rationales, base),
            two_marker_chunk(stimuli, marker_pairs),
        ),
    )


def _chosen_base(published: BaseModelSpec) -> BaseModelSpec:
    """The published base, unless LEAKAGE_BASE_MODEL names another; that one has an identity of its own."""
    chosen = os.environ.get(BASE_MODEL)
    if not chosen:
        return published
    if chosen.startswith(RANDOM):
        # The bundled tokenizer's ids are valid in every larger vocabulary, and no download is needed.
        drawn = RandomWeights(chosen.removeprefix(RANDOM))
        return BaseModelSpec(chosen, str(TINY_BASE), None, published.dtype, drawn)
    folder = Path(chosen).expanduser().resolve()
    return BaseModelSpec(folder.name, str(folder), None, published.dtype)


PROFILES = {"tiny": _tiny, "qwen2.5-7b": _qwen2_5_7b}


@cache
def load_profile(name: str) -> Profile:
    """A profile by name, with the stimuli of the repository. Raises ``StudyError`` listing what exists."""
    if name not in PROFILES:
        raise StudyError(f"no profile {name!r}; profiles: {', '.join(PROFILES)}")
    return PROFILES[name](load_stimuli())
