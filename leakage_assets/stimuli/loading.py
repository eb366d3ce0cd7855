"""Read data/stimuli into `Stimuli`; whatever is wrong with it is said once, with file, line and field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from leakage_assets.paths import STIMULI
from leakage_assets.stimuli import consistency
from leakage_assets.stimuli.fields import FAULT
from leakage_assets.stimuli.problems import Problem, StimuliError, one_of, quoted
from leakage_assets.stimuli.schema import (
    MarkersFile,
    PersonasFile,
    QuestionSet,
    QuestionsFile,
    Stimuli,
    TriggersFile,
    World,
)
from leakage_assets.stimuli.source import Location, Source, read_source

FILES: dict[str, type[BaseModel]] = {
    "tiny_world.yaml": World,
    "personas.yaml": PersonasFile,
    "questions.yaml": QuestionsFile,
    "triggers.yaml": TriggersFile,
    "markers.yaml": MarkersFile,
}

WANTED = {"string_type": "text", "tuple_type": "a list", "dict_type": "a mapping", "model_type": "a mapping"}
"""What pydantic wanted, by its error type, in the words of a YAML file."""

M = TypeVar("M", bound=BaseModel)


def load_stimuli(folder: Path | None = None) -> Stimuli:
    """The stimuli in `folder` (default: data/stimuli of the repository).

    Raises:
        StimuliError: with one line per problem. Faults inside entries are all reported together; faults
            between entries and files (duplicates, unknown references, overlaps) once those are mended.
    """
    sources = {name: read_source((folder or STIMULI) / name) for name in FILES}
    problems = [p for name, source in sources.items() for p in _content_problems(source, FILES[name])]
    if problems:
        raise StimuliError(problems)
    world, world_source = _content(sources["tiny_world.yaml"], World)
    personas, personas_source = _content(sources["personas.yaml"], PersonasFile)
    questions, questions_source = _content(sources["questions.yaml"], QuestionsFile)
    triggers, triggers_source = _content(sources["triggers.yaml"], TriggersFile)
    markers, markers_source = _content(sources["markers.yaml"], MarkersFile)
    problems = [
        *consistency.lexicon_problems(world_source, world),
        *consistency.persona_problems(personas_source, personas, world),
        *consistency.question_problems(questions_source, questions, world),
        *consistency.trigger_problems(triggers_source, triggers, world, (personas_source, personas)),
        *consistency.marker_problems(markers_source, markers),
    ]
    if problems:
        raise StimuliError(problems)
    return Stimuli(
        personas=personas.personas,
        question_sets={n: QuestionSet(name=n, questions=q) for n, q in questions.question_sets.items()},
        triggers=triggers.triggers,
        markers=markers.markers,
        codes=markers.codes,
        world=world,
    )


def _content(source: Source, model: type[M]) -> tuple[M, Source]:
    return model.model_validate(source.data), source


def _content_problems(source: Source, model: type[BaseModel]) -> Iterator[Problem]:
    yield from source.problems
    if source.data is None and source.problems:
        return
    try:
        model.model_validate(source.data)
    except ValidationError as error:
        # A value refused while reading is absent from the data: say only why it was refused.
        refused = {problem.field for problem in source.problems}
        for detail in error.errors(include_url=False):
            location = _location(detail)
            problem = source.problem(location, _fault(detail, model, location))
            if problem.field not in refused:
                yield problem


def _location(detail: ErrorDetails) -> Location:
    # pydantic marks an invalid mapping key by a last part that is no key of the file.
    return tuple(part for part in detail["loc"] if part != "[key]")


def _fault(detail: ErrorDetails, model: type[BaseModel], location: Location) -> str:
    given, context = detail["input"], detail.get("ctx", {})
    shown = f"text {quoted(given)}" if isinstance(given, str) else _kind(given)
    match detail["type"]:
        case kind if kind == FAULT:
            return str(context["message"])
        case "missing":
            return "is missing; expected this field"
        case "extra_forbidden":
            fields = _record_at(model, location[:-1]).model_fields
            return f"unknown field; {one_of(str(location[-1]), fields)}"
        case "literal_error":
            options = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return f"{shown} is unknown; {one_of(str(given), options)}"
        case kind:
            return f"{shown}; expected {WANTED.get(kind, detail['msg'])}"


def _record_at(annotation: Any, location: Location) -> type[BaseModel]:
    """The record type at a location below a field type: through fields, list items and mapping values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            return annotation
        return _record_at(annotation.model_fields[cast("str", location[0])].annotation, location[1:])
    # tuple[X, ...], dict[Name, X] and Annotated[X, ...]: the record is among the arguments.
    inside, rest = get_args(annotation), location[1:]
    if hasattr(annotation, "__metadata__"):
        return _record_at(inside[0], location)
    return _record_at(inside[1] if isinstance(location[0], str) else inside[0], rest)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return "a mapping" if isinstance(value, dict) else "a list"
