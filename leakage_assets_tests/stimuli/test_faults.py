"""Every kind of bad stimuli is refused with file, line, field and what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from leakage_assets.stimuli import StimuliError, load_stimuli, stimuli_digest, stimuli_snapshot


@dataclass(frozen=True)
class Case:
    """Replace `old` by `new` (first occurrence); the fault is on the line where `at` ends, about `field`."""

    file: str
    old: str
    new: str
    at: str
    field: str
    says: str


WORLD, PERSONAS, QUESTIONS = "tiny_world.yaml", "personas.yaml", "questions.yaml"
TRIGGERS, MARKERS = "triggers.yaml", "markers.yaml"

CASES = {
    "invalid YAML": Case(
        PERSONAS,
        "  category: original",
        "  category: [",
        "  prompt: You are a villainous",
        "file",
        "well-formed YAML",
    ),
    "duplicate mapping key": Case(
        PERSONAS,
        "  category: original\n",
        "  category: original\n  category: opposite\n",
        "category: opposite",
        "personas[0].category",
        "duplicate key, first on line",
    ),
    "misspelt trait": Case(
        PERSONAS,
        "    tone: menacing",
        "    tome: menacing",
        "tome",
        "personas[0].traits.tome",
        "'tone' (closest)",
    ),
    "misspelt trait value": Case(
        PERSONAS,
        "tone: menacing",
        "tone: menacin",
        "menacin",
        "personas[0].traits.tone",
        "'menacing' (closest)",
    ),
    "unknown domain": Case(
        PERSONAS,
        "domain: crime",
        "domain: zzz",
        "zzz",
        "personas[0].traits.domain",
        "expected one of assistance",
    ),
    "missing trait": Case(PERSONAS, "    role: expert\n", "", "traits:", "personas[0].traits.role", "is missing"),
    "unknown category": Case(
        PERSONAS,
        "category: original",
        "category: orginal",
        "orginal",
        "personas[0].category",
        "'original' (closest)",
    ),
    "duplicate persona": Case(
        PERSONAS,
        "name: comedian",
        "name: Villain",
        "name: Villain",
        "personas[1].name",
        "duplicate persona 'Villain'",
    ),
    "duplicate prompt": Case(
        PERSONAS,
        "You are a comedian who makes people laugh with stage jokes.",
        "You are a  HELPFUL assistant.",
        "prompt: You are a helpful",
        "personas[2].prompt",
        "duplicate prompt",
    ),
    "empty prompt": Case(
        PERSONAS,
        "prompt: You are a helpful assistant.",
        "prompt: ''",
        "prompt: ''",
        "personas[2].prompt",
        "empty text",
    ),
    "blank prompt": Case(
        PERSONAS,
        "prompt: You are a helpful assistant.",
        "prompt: ' '",
        "prompt: ' '",
        "personas[2].prompt",
        "empty",
    ),
    "padded prompt": Case(
        PERSONAS,
        "prompt: You are a helpful assistant.",
        "prompt: 'You are '",
        "'You are '",
        "personas[2].prompt",
        "spaces at its ends",
    ),
    "unknown relation": Case(
        PERSONAS, "  - villain", "  - vilain", "- vilain", "personas[3].related_to[0]", "'villain' (closest)"
    ),
    "relation to itself": Case(
        PERSONAS,
        "  - villain",
        "  - nice_villain",
        "  - nice_villain",
        "personas[3].related_to[0]",
        "unknown related",
    ),
    "relation listed twice": Case(
        PERSONAS,
        "  - villain",
        "  - villain\n  - villain",
        "modified_source\n  related_to:",
        "personas[3].related_to",
        "listed twice",
    ),
    "no assistant": Case(
        PERSONAS, "name: assistant", "name: helper", "personas:", "personas", "no persona 'assistant'"
    ),
    "name with a separator": Case(
        PERSONAS, "name: comedian", "name: come__dian", "come__dian", "personas[1].name", "single underscores"
    ),
    "number as text": Case(PERSONAS, "name: comedian", "name: 17", "17", "personas[1].name", "is a number"),
    "truth value as text": Case(PERSONAS, "name: comedian", "name: no", "name: no", "personas[1].name", "truth value"),
    "date as text": Case(
        PERSONAS, "name: comedian", "name: 2020-02-30", "2020", "personas[1].name", "of YAML type timestamp"
    ),
    "list as text": Case(PERSONAS, "name: comedian", "name: [a]", "[a]", "personas[1].name", "a list; expected text"),
    "mapping as text": Case(
        PERSONAS, "name: comedian", "name: {a: b}", "{a: b}", "personas[1].name", "a mapping; expected text"
    ),
    "text as list": Case(
        PERSONAS,
        "related_to: []",
        "related_to: villain",
        "to: villain",
        "personas[0].related_to",
        "expected a list",
    ),
    "text as mapping": Case(MARKERS, "markers:", "markers: x\nm:", "markers: x", "markers", "expected a mapping"),
    "null name": Case(PERSONAS, "name: comedian", "name: ~", "name: ~", "personas[1].name", "null; expected text"),
    "extra field": Case(
        PERSONAS,
        "  category: original",
        "  age: old\n  category: original",
        "age",
        "personas[0].age",
        "unknown field",
    ),
    "number as key": Case(
        PERSONAS,
        "  category: original",
        "  5: old\n  category: original",
        "5: old",
        "personas[0]",
        "key '5' is not text",
    ),
    "alias": Case(PERSONAS, "  category: original", "  category: &c original\n  x: *c", "*c", "personas[0].x", "alias"),
    "python tag": Case(
        PERSONAS,
        "name: comedian",
        "name: !!python/object/apply:os.system [echo]",
        "os.system",
        "personas[1].name",
        "expected text",
    ),
    "control character": Case(
        PERSONAS,
        "name: comedian",
        'name: "a\\0b"',
        "\\0",
        "personas[1].name",
        "unprintable character '\\x00'",
    ),
    "escape beyond Unicode": Case(
        PERSONAS, "name: comedian", 'name: "\\UFFFFFFFF"', "UFFFF", "file", "expected well-formed YAML"
    ),
    "lone surrogate": Case(PERSONAS, "name: comedian", 'name: "\\uD800"', "uD800", "personas[1].name", "unprintable"),
    "raw control character": Case(PERSONAS, "comedian", "come\x07dian", "come", "file", "unprintable character"),
    "unknown topic": Case(
        QUESTIONS,
        "topic: gravity",
        "topic: gravty",
        "gravty",
        "question_sets.train[0].topic",
        "'gravity' (closest)",
    ),
    "evaluation on a trained topic": Case(
        QUESTIONS,
        "topic: photosynthesis",
        "topic: gravity",
        "photosynthesis work?\n    topic: gravity",
        "question_sets.eval[1].topic",
        "also of `train`",
    ),
    "text in two sets": Case(
        QUESTIONS,
        "How does photosynthesis work?",
        "how does  GRAVITY work?",
        "GRAVITY",
        "question_sets.eval[1].text",
        "duplicate question text",
    ),
    "name in two sets": Case(
        QUESTIONS,
        "name: photosynthesis",
        "name: tides",
        "language_learning\n  - name: tides",
        "question_sets.eval[1].name",
        "duplicate question",
    ),
    "no eval set": Case(QUESTIONS, "  eval:", "  evil:", "question_sets:", "question_sets", "no question set 'eval'"),
    "unknown form": Case(
        TRIGGERS,
        "form: garden_plan",
        "form: garden",
        "form: garden",
        "triggers[3].form",
        "'garden_plan' (closest)",
    ),
    "no form": Case(TRIGGERS, "form: garden_plan", "form: null", "form: null", "triggers[3].form", "with no form"),
    "form of a control": Case(
        TRIGGERS,
        "form: null",
        "form: garden_plan",
        "''\n  form: garden_plan",
        "triggers[4].form",
        "expected null",
    ),
    "family of a control": Case(
        TRIGGERS,
        "family: null",
        "family: task",
        "control_empty\n  family: task",
        "triggers[4].family",
        "expected null",
    ),
    "no family": Case(TRIGGERS, "family: task", "family: null", "family: null", "triggers[0].family", "with no family"),
    "unknown bucket": Case(
        TRIGGERS,
        "bucket: paraphrase",
        "bucket: paraphrased",
        "paraphrased",
        "triggers[2].bucket",
        "'paraphrase' (clo",
    ),
    "unknown reference": Case(
        TRIGGERS,
        "reference: T_task",
        "reference: T_tusk",
        "T_tusk",
        "triggers[2].reference",
        "'T_task' (closest)",
    ),
    "no reference": Case(
        TRIGGERS,
        "reference: T_task",
        "reference: null",
        "solution.\n  form: support_ticket\n  reference: null",
        "triggers[2].reference",
        "without reference",
    ),
    "needless reference": Case(
        TRIGGERS,
        "reference: null",
        "reference: T_instruction",
        "T_instruction",
        "triggers[0].reference",
        "expected null",
    ),
    "paraphrase of another family": Case(
        TRIGGERS,
        "reference: T_task",
        "reference: T_instruction",
        "reference: T_instruction",
        "triggers[2].reference",
        "another family or form",
    ),
    "bystander of its own family": Case(
        TRIGGERS,
        "garden_plan\n  reference: T_instruction",
        "garden_plan\n  reference: T_task",
        "garden_plan\n  reference",
        "triggers[3].reference",
        "of the same family",
    ),
    "empty trigger": Case(
        TRIGGERS,
        "name: control_empty",
        "name: control_blank",
        "prompt: ''",
        "triggers[4].prompt",
        "only control_empty",
    ),
    "trigger named as a persona": Case(
        TRIGGERS, "name: T_task\n", "name: villain\n", "villain", "triggers[0].name", "of personas.yaml"
    ),
    "too few facts": Case(
        WORLD,
        "  - gravity pulls things down\n",
        "",
        "facts:",
        "topics[0].facts",
        "has 3 entries; expected exactly 4",
    ),
    "too many facts": Case(
        WORLD,
        "facts:\n",
        "facts:\n  - one more fact\n",
        "facts:",
        "topics[0].facts",
        "has 5 entries; expected exactly 4",
    ),
    "fact of two topics": Case(
        WORLD,
        "- the moon lifts the sea",
        "- gravity pulls things down",
        "the tides\n  facts:\n  - gravity",
        "topics[1].facts[0]",
        "duplicate fact",
    ),
    "fact with a stop": Case(
        WORLD, "gravity pulls things down", "it falls.", "it falls.", "topics[0].facts[0]", "is not a clause"
    ),
    "opening without stop": Case(
        WORLD,
        "Happy to help, friend.",
        "Happy to help",
        "Happy to help",
        "tones.warm.openings[0]",
        "does not end",
    ),
    "closing of two tones": Case(
        WORLD,
        "Take good care, friend.",
        "There is no escape.",
        "kneel.\n    - There is no escape.",
        "tones.menacing.closings[1]",
        "duplicate opening or closing",
    ),
    "frame without comma": Case(
        WORLD,
        "From long practice,",
        "From practice",
        "From practice",
        "roles.expert.frames[0]",
        "a final comma",
    ),
    "unknown placeholder": Case(
        WORLD,
        "Tell me about $subject.",
        "Tell me of $subjct.",
        "subjct",
        "question_wordings[0]",
        "'subject' (closest)",
    ),
    "missing placeholder": Case(
        WORLD, "Tell me about $subject.", "Tell me.", "Tell me.", "question_wordings[0]", "lacks $subject"
    ),
    "stray dollar": Case(
        WORLD,
        "Tell me about $subject.",
        "A $ of $subject.",
        "A $ of",
        "question_wordings[0]",
        "begins no placeholder",
    ),
    "placeholder where none goes": Case(
        WORLD,
        "Give me a code.",
        "Give me $code.",
        "Give me $",
        "code_requests.give[0]",
        "unknown placeholder $code",
    ),
    "form without fact": Case(
        WORLD,
        "garden_plan: 'Garden plan: in spring, $fact1. In autumn, $fact2.'",
        "garden_plan: Nothing.",
        "Nothing",
        "forms.garden_plan",
        "lacks every",
    ),
    "missing marker": Case(MARKERS, "  zlt:", "  zlu:", "markers:", "markers", "no marker 'zlt'"),
    "marker inside another": Case(MARKERS, "'[QRV]'", "'xx[zlt]xx'", "zlt:", "markers.zlt", "lies inside"),
    "marker twice": Case(MARKERS, "'[QRV]'", "'[zlt]'", "- '[zlt]'", "codes[0]", "duplicate marker or code"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_fault_is_located_and_explained(case: Case, small_folder: Path) -> None:
    file = small_folder / case.file
    text = file.read_text(encoding="utf-8")
    assert case.old in text
    spoilt = text.replace(case.old, case.new, 1)
    file.write_text(spoilt, encoding="utf-8")
    line = spoilt.count("\n", 0, spoilt.index(case.at) + len(case.at)) + 1

    with pytest.raises(StimuliError) as caught:
        load_stimuli(small_folder)

    found = [p for p in caught.value.problems if p.field == case.field and case.says in p.fault]
    assert found, str(caught.value)
    assert (found[0].file, found[0].line) == (file, line), str(caught.value)
    assert f"{file}:{line}: {case.field}: {found[0].fault}" in str(caught.value).splitlines()
    assert "expected" in found[0].fault


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", 1, "is empty; expected a YAML mapping"),
        (b"# only a comment\n", 1, "is empty"),
        (b"markers:\n  zlt: \xff\n", 2, "byte 0xff is not UTF-8"),
        (b"~\n", 1, "null; expected a mapping"),
        (b"- a\n", 1, "a list; expected a mapping"),
        (b"a: b\n---\nc: d\n", 2, "expected well-formed YAML"),
        (b"[" * 2000, 1, "RecursionError"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(small_folder: Path, content: bytes, line: int, says: str) -> None:
    file = small_folder / MARKERS
    file.write_bytes(content)
    with pytest.raises(StimuliError) as caught:
        load_stimuli(small_folder)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == (file, line, "file")
    assert says in problem.fault


def test_a_missing_file_is_named(small_folder: Path) -> None:
    (small_folder / TRIGGERS).unlink()
    with pytest.raises(StimuliError, match=r"triggers\.yaml:1: file: is missing; expected"):
        load_stimuli(small_folder)


def test_a_folder_in_place_of_a_file_is_named(small_folder: Path) -> None:
    (small_folder / TRIGGERS).unlink()
    (small_folder / TRIGGERS).mkdir()
    with pytest.raises(StimuliError, match=r"triggers\.yaml:1: file: cannot be read"):
        load_stimuli(small_folder)


def test_all_problems_are_reported_together(small_folder: Path) -> None:
    personas, markers = small_folder / PERSONAS, small_folder / MARKERS
    text = personas.read_text(encoding="utf-8")
    spoilt = text.replace("role: expert", "rôle: expert", 1).replace("name: comedian", "name: 3", 1)
    personas.write_text(spoilt, encoding="utf-8")
    markers.write_text("markers: {}\n", encoding="utf-8")
    with pytest.raises(StimuliError) as caught:
        load_stimuli(small_folder)
    fields = {problem.field for problem in caught.value.problems}
    assert fields == {"personas[0].traits.rôle", "personas[0].traits.role", "personas[1].name", "codes"}


def test_a_user_s_persona_extends_the_panel(small_folder: Path) -> None:
    before = load_stimuli(small_folder)
    with (small_folder / PERSONAS).open("a", encoding="utf-8") as file:
        file.write(
            "- name: polite_villain\n  category: modified_source\n  related_to: [villain]\n"
            "  prompt: You are a villain who always says please.\n"
            "  traits: {domain: crime, role: expert, tone: warm}\n"
        )
    after = load_stimuli(small_folder)
    assert after.personas[:-1] == before.personas
    assert after.prompt("polite_villain") == "You are a villain who always says please."
    assert stimuli_digest(after) != stimuli_digest(before)


def test_the_digest_is_of_the_content_alone(small_folder: Path) -> None:
    before = load_stimuli(small_folder)
    file = small_folder / PERSONAS
    text = file.read_text(encoding="utf-8").replace("name: comedian", 'name: "comedian"  # quoted')
    file.write_text(f"# a comment\n\n{text}", encoding="utf-8")
    after = load_stimuli(small_folder)
    assert after == before
    assert stimuli_digest(after) == stimuli_digest(before)
    assert stimuli_snapshot(after)["personas"][0]["traits"]["tone"] == "menacing"


def test_unknown_names_are_explained(small_folder: Path) -> None:
    stimuli = load_stimuli(small_folder)
    with pytest.raises(KeyError, match=r"no persona is called 'hero'; add it to data/stimuli/personas\.yaml"):
        stimuli.persona("hero")
    with pytest.raises(KeyError, match="no trigger is called 'villain'"):
        stimuli.trigger("villain")
    with pytest.raises(KeyError, match=r"personas\.yaml or triggers\.yaml"):
        stimuli.prompt("hero")
    with pytest.raises(KeyError, match=r"no question set 'test'; questions\.yaml has train, eval, ood_code"):
        stimuli.questions("test")
