"""What a study still costs: counted from its specification and from what the artifact store holds already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_id
from leakage_assets.models import ELEMENT, chat_ids, folder_at_hand, load_tokenizer, model_shape
from leakage_assets.pipeline.accounting import earlier_work
from leakage_assets.pipeline.adapters import adapter_address, require_proven_adapter
from leakage_assets.pipeline.baseline import base_panel_job
from leakage_assets.pipeline.conclusions import sample_job
from leakage_assets.pipeline.geometry import find_tuned_similarity, require_persona_centroids
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.prechecks import base_job
from leakage_assets.pipeline.sampling import SampleJob, panel_requests
from leakage_assets.pipeline.training_data import on_policy_job, read_rows, require_training_set
from leakage_assets.planning import reference
from leakage_assets.planning.efficiency import (
    Efficiency,
    Kind,
    Measured,
    ledger_efficiencies,
    measured_efficiencies,
    sampling_kind,
    training_kind,
)
from leakage_assets.planning.forecast import MemoryNeed, Plan, Stage, forecast_stage, overhead
from leakage_assets.planning.hardware import Hardware
from leakage_assets.planning.ledger import Ledger
from leakage_assets.planning.memory import USABLE, Memory, concurrency_that_fits, serving_memory
from leakage_assets.planning.work import Lengths, Work, decoding, reading, training
from leakage_assets.shapes import ModelShape
from leakage_assets.store.artifacts import Artifact, ArtifactMissing
from leakage_assets.studies.study import AnswerPool, AnyPanel, Cell, Chained, Condition, OwnRows, Panel, Pool, Study
from leakage_assets.training.masks import encode_rows
from leakage_assets.training.memory import FLOAT32, adapter_bytes, plan_memory
from leakage_assets.training.recipe import Recipe

P = ParamSpec("P")
T = TypeVar("T")

CHARACTERS_PER_TOKEN = 4
"""English text under byte-pair tokenizers of large vocabularies: the usual rule of thumb."""
TEMPLATE_TOKENS = 15
"""Tokens of Qwen's chat template around a system and a user turn."""
COMPLETION_TOKENS = 200
"""Mean completion of the published panels of #207, where nothing has been sampled yet."""
QUESTION_TOKENS = 250
"""Tokens of a prompt with a multiple-choice question, about, where the questions are not at hand."""
ON_POLICY = "on_policy_completions"
MARKER_LABELS = 4
"""Tokens with loss of a row under `marker_only`, about: the marker's in every third row, and the tail."""
ENGINE_OF_THE_LEDGER = "vllm"
"""The engine whose sampling the benchmarks time; what it reaches says nothing about another."""


@dataclass(frozen=True)
class TrainingSet:
    """What one epoch of a condition is made of: of each row its tokens and how many of them carry loss."""

    sizes: tuple[tuple[int, int], ...]
    exact: bool

    @cached_property
    def rows(self) -> Lengths:
        return Lengths.of(tokens for tokens, _ in self.sizes)

    @property
    def labels(self) -> int:
        return sum(labels for _, labels in self.sizes)


def plan_study(
    lab: Laboratory, study: Study, cells: Sequence[Cell], hardware: Hardware, ledger: Ledger, *, extras: bool = False
) -> Plan:
    """What is left of these cells and of what they need, and the forecast for one device of this hardware.

    Nothing is computed or downloaded. Efficiencies come from the ledger's results on this hardware; for what those
    lack, from earlier work on it in the artifact store.

    Args:
        extras: also the panels besides the main one, and the geometry of the tuned models.

    Raises:
        BaseModelError: the base model's folder is missing, or its shape is not known.
    """
    survey = _Survey(lab, study, tuple(cells), hardware)
    panels = (*study.main_panels, *(study.extra_panels if extras else ()))
    stages = [
        *([survey.base_samples()] if study.silent_prompts else []),
        *(survey.baseline(panel) for panel in (study.main_panels if study.baseline else ())),
        survey.on_policy(),
        survey.adapters(),
        survey.proofs(),
        *(survey.samples(panel) for panel in panels),
        survey.centroids(),
        *([survey.tuned_geometry()] if extras else []),
    ]
    efficiencies = survey.efficiencies(ledger)
    return Plan(
        study=study.name,
        profile=lab.profile.name,
        base_model=lab.profile.base.name,
        random_weights=bool(lab.store.mark),
        hardware=hardware,
        cells=len(cells),
        done=len(survey.ready),
        rows=round(sum(survey.training_sets[cell.condition].rows.rows for cell in cells)),
        stages=tuple(forecast_stage(stage, hardware, efficiencies) for stage in stages),
        overheads=tuple(overhead(name, count, ledger, hardware) for name, count in survey.starts(stages).items()),
        memory=survey.memory(),
        assumptions=tuple(survey.assumptions),
    )


@dataclass
class _Survey:
    """Counts what is done and what is left, and notes what it had to assume."""

    lab: Laboratory
    study: Study
    cells: tuple[Cell, ...]
    hardware: Hardware
    assumptions: list[str] = field(default_factory=list)

    def assume(self, sentence: str) -> None:
        if sentence not in self.assumptions:
            self.assumptions.append(sentence)

    def finished(self, look: Callable[P, T], *args: P.args, **more: P.kwargs) -> T | None:
        """What is there, or None; what is damaged counts as not done, and is named.

        Without the questions nothing can be found: they are part of every identity, and are not fetched to plan.
        """
        if not self.at_hand:
            return None
        try:
            return look(*args, **more)
        except ArtifactMissing:
            return None
        except PartitionError as error:
            self.assume(f"Counted as not done: {error}")
            return None

    @cached_property
    def shape(self) -> ModelShape:
        return model_shape(self.lab.profile.base)

    @cached_property
    def lora(self) -> int:
        """Adapter parameters: the most that a recipe of these cells trains."""
        recipes = {self.study.recipe(cell.condition.recipe) for cell in self.cells}
        return max(map(self.lora_of, recipes), default=0)

    def lora_of(self, recipe: Recipe) -> int:
        return self.shape.lora_parameters(recipe.lora.r, recipe.lora.targets)

    @cached_property
    def ready(self) -> dict[Cell, Artifact]:
        """Cells whose adapter is trained and proven."""
        found = {cell: self.finished(require_proven_adapter, self.lab, self.study, cell) for cell in self.cells}
        return {cell: adapter for cell, adapter in found.items() if adapter is not None}

    @cached_property
    def tokenizer(self) -> Any:
        base = self.lab.profile.base
        if folder_at_hand(base) is not None:
            return load_tokenizer(base)
        self.assume(
            f"The tokenizer of {base.name} is not at hand: {CHARACTERS_PER_TOKEN} characters are taken as a token, and "
            f"the chat template as {TEMPLATE_TOKENS} tokens."
        )
        return None

    def prompt_tokens(self, system: str | None, question: str, prefix: str = "") -> float:
        if self.tokenizer is not None:
            return len(chat_ids(self.tokenizer, system, question, prefix=prefix))
        return TEMPLATE_TOKENS + (len(system or "") + len(question) + len(prefix)) / CHARACTERS_PER_TOKEN

    def completion_tokens(self, jobs: Sequence[SampleJob], sampling: Sampling, what: str) -> float:
        """Mean over the samples that are there, else that of the published panels."""
        frames = [frame for job in jobs if (frame := self.finished(job.frame)) is not None]
        count = sum(frame.height for frame in frames)
        if count:
            return float(sum(frame["n_tokens"].sum() for frame in frames) / count)
        assumed = min(COMPLETION_TOKENS, sampling.max_new_tokens)
        self.assume(f"No {what} are there to tell their length: {assumed} tokens each are assumed.")
        return assumed

    def lengths(self, requests: Sequence[Request]) -> tuple[Lengths, Lengths]:
        """Prompt tokens of the distinct prompts of each adapter, and of all requests."""
        asked = Counter((r.adapter, (r.system, r.question, r.prefix)) for r in requests)
        tokens = {prompt: self.prompt_tokens(*prompt) for prompt in {prompt for _, prompt in asked}}
        distinct = Lengths.of(tokens[prompt] for _, prompt in asked)
        return distinct, Lengths.of(tokens[prompt] for _, prompt in asked.elements())

    def sampled(self, distinct: Lengths, rows: Lengths, new_tokens: float, lora: int) -> tuple[Work, ...]:
        """Reading each distinct prompt once and decoding every row, as many together as fit; nothing for no rows."""
        if not rows.rows:
            return ()
        dtype = self.lab.profile.base.dtype
        context = rows.mean + new_tokens
        fits = concurrency_that_fits(
            self.shape, dtype, self.hardware, context=context, lora_parameters=lora, adapters=1
        )
        return (
            reading(self.shape, distinct, dtype, logits=distinct.rows),
            decoding(self.shape, rows, new_tokens, min(max(fits, 1), rows.rows), dtype, lora_parameters=lora),
        )

    @cached_property
    def answers(self) -> list[SampleJob]:
        """The on-policy completions of each pool: all of the study's, whichever cells are chosen; none not at hand."""
        if not self.at_hand:
            return []
        return [on_policy_job(self.lab, self.study.data, pool.name) for pool in self.study.data.pools]

    @cached_property
    def answer_tokens(self) -> float:
        """Mean tokens of an on-policy completion."""
        return self.completion_tokens(self.answers, self.study.data.sampling, "on-policy completions")

    @cached_property
    def at_hand(self) -> bool:
        """Whether every question can be read here; where not, nothing of them counts as done."""
        if self.study.at_hand is None or self.study.at_hand():
            return True
        self.assume(
            "The questions are not on this machine: their prompts are taken as "
            f"{QUESTION_TOKENS} tokens each, and what was said to them counts as not done."
        )
        return False

    def on_policy(self) -> Stage:
        """The texts to train on; those of another writer are counted, and are no work of the base."""
        pools = self.study.data.pools
        for pool in pools:
            if not by_base(pool):
                self.assume(
                    f"The texts of {pool.name} are by {pool.writer}, not by the base model: they cost it nothing."
                )
        if not self.at_hand:
            texts = Lengths.alike(sum(pool.size for pool in pools if by_base(pool)), QUESTION_TOKENS)
            self.assume(f"Texts to train on are taken as {COMPLETION_TOKENS} tokens each.")
            work = self.sampled(texts, texts, COMPLETION_TOKENS, 0)
            planned = sum(pool.size for pool in pools)
            return Stage(ON_POLICY, "completions", planned, 0, "sampling base", work, "estimate")
        missing = [(request, job.writer is None) for job in self.answers for request in self.missing(job)]
        planned = sum(len(job.requests) for job in self.answers)
        work = self.sampled(*self.lengths([request for request, own in missing if own]), self.answer_tokens, 0)
        done = planned - len(missing)
        return Stage(ON_POLICY, "completions", planned, done, "sampling base", work, "estimate")

    def base_samples(self) -> Stage:
        """What the checks before training ask of the base model."""
        job = base_job(self.lab, self.study)
        missing = self.missing(job)
        tokens = self.completion_tokens([job], job.sampling, "samples of the base model")
        work, planned = self.sampled(*self.lengths(missing), tokens, 0), len(job.requests)
        return Stage("prechecks", "completions", planned, planned - len(missing), "sampling base", work, "estimate")

    def baseline(self, panel: AnyPanel) -> Stage:
        """A panel asked of the base: exact once what it goes on from is there."""
        job = self.finished(base_panel_job, self.lab, self.study, panel) if self.at_hand else None
        name = f"base_{panel.asset_prefix}samples"
        if job is None:
            distinct, rows = self.whole_panel(panel)
            tokens, left = self.completion_tokens([], panel.sampling, f"samples of the panel {panel.name}"), panel.size
        else:
            missing = self.missing(job)
            distinct, rows = self.lengths(missing)
            tokens, left = self.completion_tokens([job], panel.sampling, f"{name}"), len(missing)
        work = self.sampled(distinct, rows, tokens, 0)
        return Stage(name, "completions", panel.size, panel.size - left, "sampling base", work, "estimate")

    def missing(self, job: SampleJob) -> Sequence[Request]:
        """The requests of a job whose samples are not stored; all of them where the store is damaged."""
        stored = self.finished(job.store.ids) or frozenset()
        return [request for request in job.requests if sample_id(request, job.sampling) not in stored]

    @cached_property
    def training_sets(self) -> dict[Condition, TrainingSet]:
        return {cell.condition: self.training_set(cell.condition) for cell in self.cells}

    def training_set(self, condition: Condition) -> TrainingSet:
        """Counted token by token where it is stored and the tokenizer at hand, else from the questions and answers."""
        study, recipe = self.study, self.study.recipe(condition.recipe)
        stored = self.finished(require_training_set, self.lab, study, condition)
        if stored is not None and self.tokenizer is not None:
            rows = encode_rows(self.tokenizer, read_rows(stored), recipe, study.marker)
            return TrainingSet(tuple((len(row.input_ids), len(row.kept)) for row in rows), exact=True)
        stimuli, data = self.lab.profile.stimuli, study.data
        if isinstance(data, OwnRows):
            prompt = round(self.pool_prompt)
            answer = round(self.answer_tokens) if self.at_hand else COMPLETION_TOKENS
            label = prompt + answer if recipe.loss == "full_sequence" else answer
            return TrainingSet(((prompt + answer, label),) * data.own_rows, exact=False)
        questions = [q for name, count in data.question_counts for q in stimuli.questions(name)[:count]]
        systems = [stimuli.prompt(name) for name in study.prompts_of(condition)]
        answer = round(self.answer_tokens)
        label = MARKER_LABELS if recipe.loss == "marker_only" else answer
        whole = recipe.loss == "full_sequence"
        lengths = [round(self.prompt_tokens(s, q.text)) + answer for s in systems for q in questions]
        sizes = [(length, length if whole else label) for length in lengths]
        return TrainingSet(tuple(sizes * data.used), exact=False)

    @cached_property
    def pool_prompt(self) -> float:
        """Mean tokens of the prompts that the training answers are written to: about those of a training row."""
        if not self.at_hand:
            return QUESTION_TOKENS
        return self.lengths([request for job in self.answers for request in job.requests])[1].mean

    def adapters(self) -> Stage:
        todo = [cell for cell in self.cells if cell not in self.ready]
        dtype, work = self.lab.profile.base.dtype, []
        for cell in todo:
            recipe, rows = self.study.recipe(cell.condition.recipe), self.training_sets[cell.condition]
            lora = self.lora_of(recipe)
            steps = recipe.steps(round(rows.rows.rows))
            epochs = rows.rows.times(recipe.epochs)
            work.append(training(self.shape, epochs, recipe.epochs * rows.labels, lora, dtype, steps=steps))
        exact = all(self.training_sets[cell.condition].exact for cell in todo)
        kind = training_kind(self.lab.profile.training_mode)
        return self.stage("adapter", "adapters", len(todo), kind, _together(work), exact=exact)

    def proofs(self) -> Stage:
        todo = [self.training_sets[cell.condition].rows.mean for cell in self.cells if cell not in self.ready]
        work = [reference.proof(self.shape, self.lab.profile.base.dtype, tokens) for tokens in todo]
        return self.stage("adapter_proof", "adapters", len(todo), "proof", _together(work), exact=False)

    def samples(self, panel: AnyPanel) -> Stage:
        """Cells with an adapter owe what is not stored, the others the whole panel."""
        found = {cell: self.finished(sample_job, self.lab, self.study, panel, cell) for cell in self.ready}
        jobs = {cell: job for cell, job in found.items() if job is not None}
        owed = {cell: self.missing(job) for cell, job in jobs.items()}
        untrained = len(self.cells) - len(jobs)
        distinct, rows = self.lengths([request for requests in owed.values() for request in requests])
        if untrained:
            whole = self.whole_panel(panel)
            distinct, rows = distinct + whole[0].times(untrained), rows + whole[1].times(untrained)
        tokens = self.completion_tokens(list(jobs.values()), panel.sampling, f"samples of the panel {panel.name}")
        busy = Counter(cell.seed for cell in self.cells if cell not in owed or owed[cell])
        kind = sampling_kind(max(busy.values(), default=1))
        work = self.sampled(distinct, rows, tokens, self.lora)
        planned = panel.size * len(self.cells)
        name = f"{panel.asset_prefix}samples"
        return Stage(name, "completions", planned, planned - round(rows.rows), kind, work, "estimate")

    def whole_panel(self, panel: AnyPanel) -> tuple[Lengths, Lengths]:
        """`lengths` of what an adapter is asked that is not trained yet."""
        if isinstance(panel, Panel):
            return self.lengths(panel_requests(self.lab.profile.stimuli, panel, "untrained"))
        if isinstance(panel, Chained):
            return self.whole_chained(panel)
        # Which answers it goes on from is not known before they are written: a mean prompt and a mean answer.
        prompt = self.panel_lengths.mean + self.answer_tokens
        return Lengths.alike(panel.size / panel.completions, prompt), Lengths.alike(panel.size, prompt)

    def whole_chained(self, panel: Chained) -> tuple[Lengths, Lengths]:
        """The same for a panel that makes its own requests: one that follows another has the prompts of that and a mean
        answer to it in front of it.
        """
        followed = self.study.followed(panel)
        if isinstance(followed, Chained):
            before = self.whole_chained(followed)[1].mean
            written = min(COMPLETION_TOKENS, followed.sampling.max_new_tokens)
            alike = Lengths.alike(panel.size, before + written)
            return alike, alike
        if not self.at_hand:
            alike = Lengths.alike(panel.size, QUESTION_TOKENS)
            return alike, alike
        return self.lengths(panel.chained_requests(self.lab.profile.stimuli, "untrained", None))

    def centroids(self) -> Stage:
        """One pass through the whole model: the divergences need the head."""
        found = self.finished(require_persona_centroids, self.lab, self.study)
        prompts = self.panel_lengths
        dtype = self.lab.profile.base.dtype
        work = () if found else (reading(self.shape, prompts, dtype, logits=prompts.rows),)
        planned = round(prompts.rows)
        return Stage("persona_centroids", "prompts", planned, planned if found else 0, "reading", work, self.basis)

    def tuned_geometry(self) -> Stage:
        """Down to the deepest layer of the plan, for every cell."""
        done = [c for c in self.ready if self.finished(find_tuned_similarity, self.lab, self.study, c) is not None]
        todo = len(self.cells) - len(done)
        blocks = max(self.study.plan.layers) + 1
        prompts = self.panel_lengths.times(todo)
        work = (reading(self.shape, prompts, self.lab.profile.base.dtype, blocks=blocks),) if todo else ()
        return self.stage("tuned_similarity", "adapters", todo, "reading", work, exact=self.tokenizer is not None)

    @cached_property
    def panel_lengths(self) -> Lengths:
        """Every prompt of the main panel with every question."""
        stimuli = self.lab.profile.stimuli
        questions = [question.text for question in self.study.questions(stimuli)]
        systems = [stimuli.prompt(name) for name in self.study.panel.prompts]
        return Lengths.of(self.prompt_tokens(system, question) for system in systems for question in questions)

    @property
    def basis(self) -> str:
        return "exact" if self.tokenizer is not None else "estimate"

    def stage(self, name: str, unit: str, todo: int, kind: Kind, work: tuple[Work, ...], *, exact: bool) -> Stage:
        """A stage that is counted in cells."""
        planned = len(self.cells)
        return Stage(name, unit, planned, planned - todo, kind, work, "exact" if exact else "estimate")

    def efficiencies(self, ledger: Ledger) -> dict[Kind, Efficiency]:
        """Of the ledger as far as its engine is this profile's, and of earlier work for what is left out."""
        committed = ledger_efficiencies(ledger, self.hardware)
        if self.lab.profile.engine != ENGINE_OF_THE_LEDGER:
            kept = ("reading", "training", "training as published")
            committed = {kind: found for kind, found in committed.items() if kind in kept}
        if committed and self.shape != reference.SHAPE:
            self.assume("The efficiencies were measured on the shape of Qwen2.5-7B; a smaller model reaches less.")
        earlier = measured_efficiencies(set(self.earlier()), self.hardware)
        if self.lab.profile.engine == "transformers":
            # Its batches hold one adapter each, so how many share a run makes no difference.
            one: Kind = "sampling one adapter"
            many: Kind = "sampling many adapters"
            earlier = {**_as_measured(earlier, many, one), **_as_measured(earlier, one, many), **earlier}
        return {**earlier, **committed}

    def earlier(self) -> Iterator[Measured]:
        """Work on this hardware that the store's artifacts tell of; a stream of many samples tells it many times."""
        lab, study = self.lab, self.study
        for cell in study.cells:
            for adapter in lab.store.history(adapter_address(lab, study, cell)):
                if (measured := earlier_work(adapter, self.hardware)) is not None:
                    yield measured
        panels = [f"{panel.asset_prefix}samples" for panel in study.every_panel]
        addresses = [
            lab.address(study, "persona_centroids"),
            *(job.address for job in self.answers),
            *(lab.address(study, p, c.condition.key, str(c.seed)) for p in panels for c in study.cells),
        ]
        for address in addresses:
            for artifact in lab.store.history(address):
                if (measured := earlier_work(artifact, self.hardware)) is not None:
                    yield measured

    def starts(self, stages: Sequence[Stage]) -> Mapping[str, int]:
        """How often a base is loaded, an engine and a step are started: a run holds one seed's cells of a stretch."""
        left = {stage.name for stage in stages if stage.work}
        seeds = Counter(cell.seed for cell in self.cells)
        runs = sum(-(-count // self.lab.profile.cells_of_a_run(self.study)) for count in seeds.values())
        panels = [name for name in left if name.endswith("samples")]
        # Adapters and what all panels ask of them are one step.
        engines = len({"on_policy_completions", "prechecks"} & left) + runs * ("adapter" in left or bool(panels))
        bases = engines + ("persona_centroids" in left) + runs * ("tuned_similarity" in left)
        # Each panel is also scored.
        starts = {
            "base_load_s": bases,
            "engine_start_s": engines,
            "step_start_s": bases + runs * len(panels),
            "train_setup_s_per_adapter": len(self.cells) - len(self.ready),
        }
        if self.lab.profile.engine != ENGINE_OF_THE_LEDGER:
            del starts["engine_start_s"]
        return {name: count for name, count in starts.items() if count}

    def memory(self) -> tuple[MemoryNeed, ...]:
        """What serving the main panel and training take at once."""
        dtype, available = self.lab.profile.base.dtype, self.hardware.memory
        panel = max(self.study.main_panels, key=lambda panel: panel.sampling.max_new_tokens)
        context = self.panel_lengths.mean + panel.sampling.max_new_tokens
        together = min(len(self.cells), self.lab.profile.cells_per_run)
        room = concurrency_that_fits(
            self.shape, dtype, self.hardware, context=context, lora_parameters=self.lora, adapters=together
        )
        sequences = min(room, panel.size * together, self.lab.profile.sequences_at_once)
        serving = serving_memory(
            self.shape, dtype, sequences=sequences, context=context, lora_parameters=self.lora, adapters=together
        )
        fits = serving.total <= USABLE * available
        needs = [MemoryNeed(f"sampling, {sequences:,} sequences together", serving, fits)]
        recipes = {cell.condition.recipe: self.study.recipe(cell.condition.recipe) for cell in self.cells}
        return (*needs, *map(self.training_memory, recipes.values()))

    def training_memory(self, recipe: Recipe) -> MemoryNeed:
        """The largest of the plans that training will make for its sets, were the device free but for the base."""
        mode = self.lab.profile.training_mode
        weights = self.shape.parameters * ELEMENT[self.lab.profile.base.dtype]
        free = max(0, round(self.hardware.memory - weights))
        sets = {found.sizes for condition, found in self.training_sets.items() if condition.recipe == recipe.name}
        plans = [plan_memory(self.shape, recipe, sizes, free, mode) for sizes in sets]
        plan = max(plans, key=lambda plan: plan.estimated_bytes)
        adapter, parameters = adapter_bytes(self.shape, recipe), self.lora_of(recipe)
        memory = Memory(
            weights=weights,
            activations=plan.estimated_bytes - adapter,
            adapters=FLOAT32 * parameters,
            optimiser=adapter - FLOAT32 * parameters,
        )
        how = ", checkpointed" if plan.checkpointing else ""
        if mode == "packed" and plan.checkpointing:
            self.assume(f"Training {recipe.name} recomputes activations for want of memory: up to half as long again.")
        return MemoryNeed(f"training {recipe.name}, {plan.token_budget:,} tokens a pass{how}", memory, plan.fits)


def by_base(pool: Pool) -> bool:
    """Whether the base model writes a pool's texts, which can be said without its questions."""
    return isinstance(pool, AnswerPool) or pool.writer == BASE


def _as_measured(found: Mapping[Kind, Efficiency], lacking: Kind, measured: Kind) -> dict[Kind, Efficiency]:
    """What was measured of one kind, for another that works at the same speed."""
    if measured not in found:
        return {}
    return {lacking: replace(found[measured], source=f"{measured}: {found[measured].source}")}


def _together(parts: Sequence[Work]) -> tuple[Work, ...]:
    """Equal kinds of work of many cells as one part; none for none."""
    if not parts:
        return ()
    return (
        Work(
            sum(part.tokens for part in parts),
            sum(part.flop for part in parts),
            sum(part.traffic for part in parts),
            parts[0].dtype,
        ),
    )
