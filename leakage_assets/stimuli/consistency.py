"""Faults that only show between entries: names used twice, references to nothing, sets that overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from leakage_assets.stimuli.problems import Problem, one_of, quoted
from leakage_assets.stimuli.schema import (
    AnyTopic,
    MarkersFile,
    PersonasFile,
    Question,
    QuestionsFile,
    Trigger,
    TriggersFile,
    World,
)
from leakage_assets.stimuli.source import Location, Source

ASSISTANT = "assistant"
"""The persona in whose voice a prompt without identity and form is answered."""

EMPTY_PROMPT = "control_empty"
"""The only prompt that may be empty: it is sent as an explicit empty system turn."""

REQUIRED_MARKERS = ("zlt", "a", "b", "probe")
REQUIRED_SETS = ("train", "eval")
TRAINED_SETS = ("train", "implant")
"""Sets whose answers adapters are trained on."""

REWRITES = ("paraphrase", "declarative")
NO_FAMILY = ("control", "vendor_default")

Entry = tuple[Source, Location, str]


def folded(text: str) -> str:
    """`text` as it is compared: case-insensitive, every run of whitespace one space."""
    return " ".join(text.casefold().split())


def repeated(entries: Iterable[Entry], what: str) -> Iterator[Problem]:
    """A problem for each (source, location, text) whose folded text an earlier entry already has."""
    first: dict[str, tuple[Source, Location]] = {}
    for source, location, text in entries:
        if (key := folded(text)) not in first:
            first[key] = (source, location)
            continue
        earlier, where = first[key]
        at = f"line {earlier.line(where)}" + ("" if earlier is source else f" of {earlier.file.name}")
        fault = f"duplicate {what} {quoted(text)}, first on {at}; expected each {what} once"
        yield source.problem(location, fault)


def unknown(source: Source, location: Location, given: str, known: Iterable[str], what: str) -> Iterator[Problem]:
    """A problem if `given` is not among `known`."""
    options = list(known)
    if given not in options:
        yield source.problem(location, f"unknown {what} {quoted(given)}; {one_of(given, options)}")


def lexicon_problems(source: Source, world: World) -> Iterator[Problem]:
    """Sentences, lead-ins and facts must each tell one trait value or one topic from all the others."""
    tones: list[Entry] = [
        (source, ("tones", name, part, i), text)
        for name, tone in world.tones.items()
        for part, texts in (("openings", tone.openings), ("closings", tone.closings))
        for i, text in enumerate(texts)
    ]
    frames: list[Entry] = [
        (source, ("roles", name, "frames", i), text)
        for name, role in world.roles.items()
        for i, text in enumerate(role.frames)
    ]
    phrases: list[Entry] = [
        (source, ("domains", name, "phrases", i), text)
        for name, domain in world.domains.items()
        for i, text in enumerate(domain.phrases)
    ]
    parts: tuple[tuple[str, Sequence[AnyTopic]], ...]
    parts = (("topics", world.topics), ("generic_topics", world.generic_topics))
    topics = [(part, i, topic) for part, group in parts for i, topic in enumerate(group)]
    names: list[Entry] = [(source, (part, i, "name"), topic.name) for part, i, topic in topics]
    subjects: list[Entry] = [(source, (part, i, "subject"), topic.subject) for part, i, topic in topics]
    facts: list[Entry] = [
        (source, (part, i, "facts", j), fact) for part, i, topic in topics for j, fact in enumerate(topic.facts)
    ]
    wordings: list[Entry] = [
        (source, ("choice_wordings", part, i), text)
        for part, texts in (
            ("train", world.choice_wordings.train),
            ("held_out", world.choice_wordings.held_out),
        )
        for i, text in enumerate(texts)
    ]
    forms: list[Entry] = [(source, ("forms", name), text) for name, text in world.forms.items()]
    yield from repeated(tones, "opening or closing")
    yield from repeated(frames, "frame")
    yield from repeated(phrases, "phrase")
    yield from repeated(names, "topic name")
    yield from repeated(subjects, "subject")
    yield from repeated(facts, "fact")
    yield from repeated(wordings, "choice wording")
    yield from repeated(forms, "form")


def persona_problems(source: Source, content: PersonasFile, world: World) -> Iterator[Problem]:
    """Duplicate personas and prompts, unknown relations, and traits that the lexicon does not have."""
    names = [persona.name for persona in content.personas]
    yield from repeated((_at(source, "personas", i, "name", name) for i, name in enumerate(names)), "persona")
    prompts = (_at(source, "personas", i, "prompt", p.prompt) for i, p in enumerate(content.personas))
    yield from repeated(prompts, "prompt")
    if ASSISTANT not in names:
        fault = f"no persona {ASSISTANT!r}; expected it: it answers prompts without identity"
        yield source.problem(("personas",), fault)
    lexicon: Mapping[str, Mapping[str, object]]
    lexicon = {"domain": world.domains, "role": world.roles, "tone": world.tones}
    for i, persona in enumerate(content.personas):
        here: Location = ("personas", i)
        others = [name for name in names if name != persona.name]
        for j, related in enumerate(persona.related_to):
            yield from unknown(source, (*here, "related_to", j), related, others, "related persona")
        for trait, values in lexicon.items():
            given = getattr(persona.traits, trait)
            yield from unknown(source, (*here, "traits", trait), given, values, trait)


def question_problems(source: Source, content: QuestionsFile, world: World) -> Iterator[Problem]:
    """Names and texts that occur twice in any sets, unknown topics, and evaluation on trained topics."""
    sets = content.question_sets
    everything: list[tuple[Location, Question]] = [
        (("question_sets", name, i), question)
        for name, questions in sets.items()
        for i, question in enumerate(questions)
    ]
    yield from repeated(((source, (*at, "name"), q.name) for at, q in everything), "question name")
    yield from repeated(((source, (*at, "text"), q.text) for at, q in everything), "question text")
    topics = [topic.name for topic in (*world.topics, *world.generic_topics)]
    for at, question in everything:
        yield from unknown(source, (*at, "topic"), question.topic, topics, "topic")
    for name in REQUIRED_SETS:
        if name not in sets:
            yield source.problem(("question_sets",), f"no question set {name!r}; expected it: studies use it")
    trained = {question.topic: name for name in reversed(TRAINED_SETS) for question in sets.get(name, ())}
    for i, question in enumerate(sets.get("eval", ())):
        if question.topic in trained:
            fault = (
                f"topic {question.topic!r} is also of `{trained[question.topic]}`; expected a topic never trained on"
            )
            yield source.problem(("question_sets", "eval", i, "topic"), fault)


def trigger_problems(
    source: Source, content: TriggersFile, world: World, personas: tuple[Source, PersonasFile]
) -> Iterator[Problem]:
    """Names shared with a persona, unknown forms and references, rewrites unlike their original."""
    persona_source, persona_file = personas
    names = [_at(persona_source, "personas", i, "name", p.name) for i, p in enumerate(persona_file.personas)]
    names += [_at(source, "triggers", i, "name", t.name) for i, t in enumerate(content.triggers)]
    yield from (p for p in repeated(names, "prompt name") if p.file == source.file)
    prompts = (_at(source, "triggers", i, "prompt", t.prompt) for i, t in enumerate(content.triggers))
    yield from repeated(prompts, "prompt")
    triggers = {trigger.name: trigger for trigger in content.triggers}
    for i, trigger in enumerate(content.triggers):
        for name, fault in _trigger_faults(trigger, triggers, world):
            yield source.problem(("triggers", i, name), fault)


def _trigger_faults(trigger: Trigger, triggers: Mapping[str, Trigger], world: World) -> Iterator[tuple[str, str]]:
    if trigger.prompt != trigger.prompt.strip():
        yield "prompt", f"{quoted(trigger.prompt)} has spaces at its ends; expected the text without them"
    elif not trigger.prompt and trigger.name != EMPTY_PROMPT:
        yield "prompt", f"empty prompt; expected a text (only {EMPTY_PROMPT} is empty)"
    if trigger.form is not None and trigger.form not in world.forms:
        yield "form", f"unknown form {quoted(trigger.form)}; {one_of(trigger.form, world.forms)}"
    if (trigger.family is None) != (trigger.bucket in NO_FAMILY):
        have = "no family" if trigger.family is None else f"family {trigger.family!r}"
        expected = "null" if trigger.bucket in NO_FAMILY else "task, instruction, context or format"
        yield "family", f"a {trigger.bucket} prompt with {have}; expected {expected}"
    if (trigger.form is None) != (trigger.bucket in NO_FAMILY):
        have = "no form" if trigger.form is None else f"form {trigger.form!r}"
        expected = "null" if trigger.bucket in NO_FAMILY else "one of the forms of tiny_world.yaml"
        yield "form", f"a {trigger.bucket} prompt with {have}; expected {expected}"
    yield from (("reference", fault) for fault in _reference_faults(trigger, triggers))


def _reference_faults(trigger: Trigger, triggers: Mapping[str, Trigger]) -> Iterator[str]:
    needed = trigger.bucket in (*REWRITES, "cross_family_bystander")
    if trigger.reference is None:
        if needed:
            yield f"a {trigger.bucket} without reference; expected the name of a trigger"
        return
    if not needed:
        yield f"a {trigger.bucket} prompt has reference {trigger.reference!r}; expected null"
        return
    others = [name for name in triggers if name != trigger.name]
    if trigger.reference not in others:
        yield f"unknown trigger {quoted(trigger.reference)}; {one_of(trigger.reference, others)}"
        return
    original = triggers[trigger.reference]
    same_family = original.family == trigger.family
    if trigger.bucket in REWRITES and not (same_family and original.form == trigger.form):
        yield f"{original.name} has another family or form; expected the original that this prompt rewrites"
    if trigger.bucket == "cross_family_bystander" and same_family:
        yield f"{original.name} is of the same family; expected a trigger of another family"


def marker_problems(source: Source, content: MarkersFile) -> Iterator[Problem]:
    """Markers that the studies need, and strings that would be found inside one another."""
    for name in REQUIRED_MARKERS:
        if name not in content.markers:
            yield source.problem(("markers",), f"no marker {name!r}; expected it: the studies train it")
    entries: list[Entry] = [(source, ("markers", name), text) for name, text in content.markers.items()]
    entries += [(source, ("codes", i), text) for i, text in enumerate(content.codes)]
    yield from repeated(entries, "marker or code")
    # Markers are matched as substrings, and loosely with all whitespace deleted.
    tight = [(location, "".join(text.casefold().split())) for _, location, text in entries]
    for location, text in tight:
        for other, longer in tight:
            if text in longer and len(text) < len(longer):
                where = f"{longer!r} on line {source.line(other)}"
                fault = f"{text!r} lies inside {where}; expected separate strings"
                yield source.problem(location, fault)


def _at(source: Source, part: str, index: int, name: str, text: str) -> Entry:
    return source, (part, index, name), text
