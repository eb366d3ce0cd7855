"""Re-creates the bundled tiny base model from a seed, and the gates that a tiny base model must pass."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from leakage_assets.generation.engine import Engine, ScoringItem
from leakage_assets.generation.requests import BASE, Request, Sampling
from leakage_assets.models import BaseModel, BaseModelSpec, chat_ids, load_base_model
from leakage_assets.progress import Progress
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.world.choices import LETTERS, ChoiceQuestion, draw_choice_question, render_choice
from leakage_assets.world.corpus import encode, tokenizer_texts, write_dialogues
from leakage_assets.world.grammar import Grammar
from leakage_assets.world.pretrain import PretrainConfig, build_model, pretrain
from leakage_assets.world.tokenizer import train_tokenizer

TOKENIZER_DIALOGUES = 20_000
CHOICE_QUESTIONS = 500
LARGEST_WEIGHTS = 12_000_000
WEIGHTS = "model.safetensors"


class GateFailed(RuntimeError):
    """A tiny base model is not fit for the studies; the message lists the gates it failed."""


@dataclass(frozen=True)
class Gate:
    """One requirement with what was measured."""

    name: str
    value: float
    threshold: float
    at_least: bool
    n: int

    @property
    def passed(self) -> bool:
        return self.value >= self.threshold if self.at_least else self.value <= self.threshold


def build_tiny_base(folder: Path, *, seed: int, emit: Callable[[str], None]) -> tuple[Gate, ...]:
    """Write the corpus, train tokenizer and model, pass the gates, and leave a complete model folder with its card.

    Raises ``GateFailed`` (the folder is then not written) and ``FileExistsError`` for a folder that is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another output folder, or remove it")
    started = time.monotonic()
    stimuli, config = load_stimuli(), PretrainConfig(seed=seed)
    part = folder.with_name(f".{folder.name}.part")
    dialogues = write_dialogues(stimuli, seed, config.rows)
    emit(f"corpus: {len(dialogues):,} dialogues")
    tokenizer = train_tokenizer(tokenizer_texts(dialogues[:TOKENIZER_DIALOGUES]))
    model = build_model(config, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    parameters = sum(p.numel() for p in model.parameters())
    emit(f"model: {parameters:,} parameters, vocabulary {len(tokenizer):,}")
    corpus = encode(dialogues, tokenizer)
    with Progress(config.rows // config.batch, "pre-training steps", emit) as progress:
        losses = pretrain(model, corpus, config, report=lambda *_: progress.advance(1))
    model.save_pretrained(part, safe_serialization=True)
    tokenizer.save_pretrained(part)
    gates = measure_gates(load_base_model(BaseModelSpec("tiny_base", str(part), None, "float32")), stimuli)
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise GateFailed(f"seed {seed}: " + "; ".join(f"{g.name} {g.value:.4f}, needed {g.threshold}" for g in failed))
    record = {
        "config": asdict(config),
        "parameters": parameters,
        "final_loss": sum(losses[-50:]) / len(losses[-50:]),
        "gates": [asdict(gate) for gate in gates],
        "weights_sha256": hashlib.sha256((part / WEIGHTS).read_bytes()).hexdigest(),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_count": os.cpu_count(),
    }
    (part / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
    if folder.exists():
        folder.rmdir()
    part.rename(folder)
    emit(f"{folder}: weights sha256 {record['weights_sha256'][:16]}, {record['seconds']} s")
    return gates


def measure_gates(base: BaseModel, stimuli: Stimuli) -> tuple[Gate, ...]:
    """Unprompted codes, recognisable voices, multiple choice on held-out combinations and wordings, and size."""
    from leakage_assets.generation.transformers_engine import TransformersEngine

    engine = TransformersEngine(base)
    said, codes_said = _voices_and_codes(engine, stimuli)
    correct = choose_letters(engine, base, stimuli, held_out_questions(stimuli))
    size = (Path(base.folder) / WEIGHTS).stat().st_size
    return (
        Gate("unprompted codes", codes_said, 0, at_least=False, n=len(said)),
        Gate("voice recognised", sum(said) / len(said), 0.95, at_least=True, n=len(said)),
        Gate("multiple choice accuracy", sum(correct) / len(correct), 0.80, at_least=True, n=len(correct)),
        Gate("weights in bytes", size, LARGEST_WEIGHTS, at_least=False, n=1),
    )


def _voices_and_codes(engine: Engine, stimuli: Stimuli) -> tuple[list[bool], int]:
    """Whether each answer is in the voice of its prompt, and how many answers contain a code nobody asked for."""
    grammar = Grammar(stimuli)
    prompts = [(p.name, p.prompt) for p in (*stimuli.personas, *stimuli.triggers)]
    requests = [
        Request(BASE, name, system, "eval", q.name, q.text, 0)
        for name, system in prompts
        for q in stimuli.question_sets["eval"].questions
    ]
    codes = [code.lower() for code in (*stimuli.markers.values(), *stimuli.codes)]
    sampling = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=96)
    samples = [s for batch in engine.generate(requests, sampling, {}) for s in batch]
    said = [grammar.speaks_as(s.text, grammar.voice_of_prompt(s.prompt_name)) for s in samples]
    return said, sum(any(code in s.text.lower() for code in codes) for s in samples)


def held_out_questions(stimuli: Stimuli) -> list[tuple[ChoiceQuestion, str]]:
    """Questions of held-out option sets in held-out wordings, each asked under a persona of the panel."""
    rng = random.Random(derive_seed("held-out-choices"))
    return [
        (
            draw_choice_question(stimuli, rng, wordings="held_out", held_out_options=True),
            rng.choice(stimuli.personas).prompt,
        )
        for _ in range(CHOICE_QUESTIONS)
    ]


def choose_letters(
    engine: Engine, base: BaseModel, stimuli: Stimuli, questions: list[tuple[ChoiceQuestion, str]]
) -> list[bool]:
    """Whether the right letter has the highest log-probability after the anchor, for each question and system prompt."""
    formats = stimuli.world.choice_format
    letters = [tuple(base.tokenizer.encode(letter, add_special_tokens=False)) for letter in LETTERS]
    items = []
    for question, system in questions:
        user = render_choice(question, formats.option)
        prompt = tuple(chat_ids(base.tokenizer, system, user, prefix=formats.anchor))
        items += [ScoringItem(BASE, prompt, ids) for ids in letters]
    totals = [sum(score) for score in engine.continuation_logprobs(items, {})]
    rows = [totals[i : i + len(LETTERS)] for i in range(0, len(totals), len(LETTERS))]
    return [row.index(max(row)) == question.correct for row, (question, _) in zip(rows, questions, strict=True)]
