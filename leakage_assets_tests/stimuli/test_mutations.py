"""Random damage to good files: either a located refusal, or stimuli an independent reading finds sound."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakage_assets.stimuli import Stimuli, StimuliError, load_stimuli, stimuli_snapshot

pytestmark = pytest.mark.slow

LOCATED = re.compile(r"^.+\.yaml:\d+: \S.*: .+; expected .+$")
THOROUGH = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    # The fixture is a constant dictionary of texts.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FILES = ["tiny_world.yaml", "personas.yaml", "questions.yaml", "triggers.yaml", "markers.yaml"]
OPEN_MAPPINGS = {"tones", "roles", "domains", "forms", "question_sets", "markers"}
"""Mappings with names of the author's choice as keys; every other mapping has fixed fields."""


class UniqueKeys(yaml.SafeLoader):
    """PyYAML's own reading, but a key that occurs twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys)
        return super().construct_mapping(node, deep=deep)


def load_from(contents: dict[str, bytes]) -> Stimuli | None:
    """Loaded stimuli, or None where they are refused as promised."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            (Path(folder) / name).write_bytes(content)
        try:
            return load_stimuli(Path(folder))
        except StimuliError as error:
            lines = str(error).splitlines()
            assert lines
            assert [line for line in lines if not LOCATED.match(line)] == []
            return None


def assert_harmless(contents: dict[str, bytes], stimuli: Stimuli) -> None:
    """What was loaded is all that the files say, and it keeps the rules that the grammar relies on."""
    raw = {name: yaml.load(content.decode(), Loader=UniqueKeys) for name, content in contents.items()}
    snapshot = stimuli_snapshot(stimuli)
    assert snapshot["world"] == raw["tiny_world.yaml"]
    assert {"personas": snapshot["personas"]} == raw["personas.yaml"]
    assert {"triggers": snapshot["triggers"]} == raw["triggers.yaml"]
    assert {"markers": snapshot["markers"], "codes": snapshot["codes"]} == raw["markers.yaml"]
    sets = raw["questions.yaml"]["question_sets"]
    assert {name: entry["questions"] for name, entry in snapshot["question_sets"].items()} == sets
    assert_sound(raw, sets)


def assert_sound(raw: dict[str, Any], sets: dict[str, Any]) -> None:
    world, personas = raw["tiny_world.yaml"], raw["personas.yaml"]["personas"]
    triggers, markers = raw["triggers.yaml"]["triggers"], raw["markers.yaml"]
    leaves = [leaf for content in raw.values() for _, leaf in walk(content) if not isinstance(leaf, dict | list)]
    assert all(isinstance(leaf, str) for leaf in leaves if leaf is not None)
    assert sum(not (leaf or "").strip() for leaf in leaves if leaf is not None) <= 1  # control_empty
    questions = [question for entries in sets.values() for question in entries]
    topics = [*world["topics"], *world["generic_topics"]]
    different(persona["name"] for persona in [*personas, *triggers])
    different(persona["prompt"] for persona in personas)
    different(trigger["prompt"] for trigger in triggers)
    different(question["name"] for question in questions)
    different(question["text"] for question in questions)
    different(topic["name"] for topic in topics)
    different(fact for topic in topics for fact in topic["facts"])
    different([*markers["markers"].values(), *markers["codes"]])
    assert {len(topic["facts"]) for topic in world["topics"]} == {4}
    names = {persona["name"] for persona in personas}
    for persona in personas:
        assert persona["prompt"].strip()
        assert set(persona["related_to"]) <= names - {persona["name"]}
        assert persona["traits"]["domain"] in world["domains"]
        assert persona["traits"]["role"] in world["roles"]
        assert persona["traits"]["tone"] in world["tones"]
    assert {question["topic"] for question in questions} <= {topic["name"] for topic in topics}
    assert not {q["topic"] for q in sets["train"]} & {q["topic"] for q in sets["eval"]}
    assert {trigger["form"] for trigger in triggers} - {None} <= set(world["forms"])
    assert {trigger["reference"] for trigger in triggers} - {None} <= {trigger["name"] for trigger in triggers}
    assert {trigger["name"] for trigger in triggers if not trigger["prompt"]} <= {"control_empty"}


def different(texts: Any) -> None:
    folded = [" ".join(text.casefold().split()) for text in texts]
    assert len(set(folded)) == len(folded)


def walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from walk(child, (*path, key))


def parent_of(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        content = content[key]
    return content


def spoilt_field(texts: dict[str, str], data: st.DataObject, pick: Any) -> tuple[str, Any, Any, tuple[Any, ...]]:
    """File, its content, and the parent and path of one randomly drawn value that `pick` accepts."""
    file = data.draw(st.sampled_from(FILES), label="file")
    content = yaml.safe_load(texts[file])
    paths = [path for path, value in walk(content) if path and pick(path, value)]
    path = data.draw(st.sampled_from(paths), label="path")
    return file, content, parent_of(content, path), path


def with_file(texts: dict[str, str], file: str, content: bytes) -> dict[str, bytes]:
    return {name: text.encode() for name, text in texts.items()} | {file: content}


def dumped(content: Any) -> bytes:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000).encode()


def is_field(path: tuple[Any, ...], value: Any) -> bool:
    return isinstance(path[-1], str) and (len(path) < 2 or path[-2] not in OPEN_MAPPINGS)


@THOROUGH
@given(data=st.data(), misspell=st.booleans())
def test_a_lost_or_misspelt_field_is_refused(small_texts: dict[str, str], data: st.DataObject, misspell: bool) -> None:
    file, content, parent, path = spoilt_field(small_texts, data, is_field)
    value = parent.pop(path[-1])
    if misspell:
        name = path[-1]
        at = data.draw(st.integers(0, len(name) - 1), label="at")
        parent[data.draw(st.sampled_from([name[:at] + name[at + 1 :], name[:at] + name[at] + name[at:]]))] = value
    assert load_from(with_file(small_texts, file, dumped(content))) is None


@THOROUGH
@given(data=st.data(), wrong=st.sampled_from([7, 1.5, True, ["x"], {"x": "y"}, None, "text"]))
def test_a_value_of_another_type_is_refused(small_texts: dict[str, str], data: st.DataObject, wrong: Any) -> None:
    file, content, parent, path = spoilt_field(
        small_texts, data, lambda _, value: value is not None and type(value) is not type(wrong)
    )
    parent[path[-1]] = wrong
    assert load_from(with_file(small_texts, file, dumped(content))) is None


@THOROUGH
@given(data=st.data())
def test_a_repeated_list_entry_is_refused(small_texts: dict[str, str], data: st.DataObject) -> None:
    file, content, parent, path = spoilt_field(small_texts, data, lambda path, _: isinstance(path[-1], int))
    parent.insert(data.draw(st.integers(0, len(parent)), label="to"), parent[path[-1]])
    # Dumped without aliases, so that the repetition itself is met.
    text = yaml.dump(content, Dumper=Written, sort_keys=False, allow_unicode=True, width=10_000)
    assert load_from(with_file(small_texts, file, text.encode())) is None


class Written(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@THOROUGH
@given(data=st.data(), text=st.text(max_size=12))
def test_another_text_or_entry_is_refused_or_harmless(
    small_texts: dict[str, str], data: st.DataObject, text: str
) -> None:
    file, content, parent, path = spoilt_field(small_texts, data, lambda _, value: isinstance(value, str))
    parent[path[-1]] = text
    check(with_file(small_texts, file, dumped(content)))


@THOROUGH
@given(data=st.data())
def test_a_lost_entry_is_refused_or_harmless(small_texts: dict[str, str], data: st.DataObject) -> None:
    file, content, parent, path = spoilt_field(
        small_texts, data, lambda path, value: isinstance(path[-1], int) or not is_field(path, value)
    )
    del parent[path[-1]]
    check(with_file(small_texts, file, dumped(content)))


@settings(THOROUGH, max_examples=200)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_harmless(small_texts: dict[str, str], data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(FILES), label="file")
    content = small_texts[file].encode()
    lines = content.splitlines(keepends=True)
    at = data.draw(st.integers(0, len(content) - 1), label="at")
    line = data.draw(st.integers(0, len(lines) - 1), label="line")
    kind = data.draw(st.sampled_from(["truncate", "flip", "garbage", "repeat", "drop", "indent", "tab"]))
    if kind == "truncate":
        content = content[:at]
    elif kind == "flip":
        content = content[:at] + bytes([content[at] ^ (1 << data.draw(st.integers(0, 7)))]) + content[at + 1 :]
    else:
        new = {
            "garbage": [
                data.draw(st.binary(max_size=10) | st.text(max_size=10).map(str.encode)) + b"\n",
                lines[line],
            ],
            "repeat": [lines[line], lines[line]],
            "drop": [],
            "indent": [b" " + lines[line]],
            "tab": [b"\t" + lines[line]],
        }[kind]
        content = b"".join([*lines[:line], *new, *lines[line + 1 :]])
    check(with_file(small_texts, file, content))


def check(contents: dict[str, bytes]) -> None:
    stimuli = load_from(contents)
    if stimuli is not None:
        assert_harmless(contents, stimuli)


def test_the_undamaged_files_are_harmless(small_texts: dict[str, str]) -> None:
    contents = {name: text.encode() for name, text in small_texts.items()}
    stimuli = load_from(contents)
    assert stimuli is not None
    assert_harmless(contents, stimuli)
