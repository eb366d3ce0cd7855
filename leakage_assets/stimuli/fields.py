"""Field types of the stimuli: texts with the shape that the grammar relies on."""

from __future__ import annotations

import re
from string import Template
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from leakage_assets.stimuli.problems import one_of, quoted

FAULT = "stimuli_fault"
"""Type of the pydantic errors raised here: their message is already ``<fault>; expected <...>``."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no coercion (a number is not a text)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def fault(what: str, expected: str) -> PydanticCustomError:
    # The message goes in as context: pydantic would read braces in it as placeholders.
    return PydanticCustomError(FAULT, "{message}", {"message": f"{what}; expected {expected}"})


def _name(text: str) -> str:
    # Names become folder names and parts of partition keys, which join them by a double underscore.
    if not NAME.fullmatch(text):
        raise fault(f"{quoted(text)} is not a name", "letters, digits and single underscores, letter first")
    return text


def _text(text: str) -> str:
    if not text.strip():
        raise fault("empty text", "at least one word")
    return text


def _trimmed(text: str) -> str:
    if _text(text) != text.strip():
        raise fault(f"{quoted(text)} has spaces at its ends", "the text without them")
    return text


def _sentence(text: str) -> str:
    if not _trimmed(text).endswith((".", "!", "?")):
        raise fault(f"{quoted(text)} does not end a sentence", "a final full stop, ! or ?")
    return text


def _lead_in(text: str) -> str:
    if not _trimmed(text).endswith(","):
        raise fault(f"{quoted(text)} does not lead in to a fact", "a final comma")
    return text


def _fact(text: str) -> str:
    if _trimmed(text)[0].isupper() or text.endswith((".", "!", "?", ",")):
        raise fault(f"{quoted(text)} is not a clause", "a lower-case start and no final stop")
    return text


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, AfterValidator(_text)]
Phrase = Annotated[str, AfterValidator(_trimmed)]
Sentence = Annotated[str, AfterValidator(_sentence)]
LeadIn = Annotated[str, AfterValidator(_lead_in)]
Fact = Annotated[str, AfterValidator(_fact)]


def template(*required: str, optional: tuple[str, ...] = ()) -> AfterValidator:
    """A ``string.Template`` with all `required` placeholders and no others than these and the `optional`."""
    known = (*required, *optional)
    if not known:
        expected = "no placeholders ($ is written $$)"
    else:
        joined = ", ".join(f"${name}" for name in known)
        expected = f"the placeholders {joined}" if required else f"at least one of {joined}"

    def check(text: str) -> str:
        parsed = Template(_trimmed(text))
        if not parsed.is_valid():
            raise fault(f"a $ in {quoted(text)} begins no placeholder", f"{expected} ($ itself is $$)")
        found = parsed.get_identifiers()
        for name in found:
            if name not in known:
                hint = one_of(name, known).removeprefix("expected ") if known else expected
                raise fault(f"unknown placeholder ${name}", hint)
        missing = [name for name in required if name not in found]
        if missing or (known and not found):
            lacking = ", ".join(f"${name}" for name in missing) or "every placeholder"
            raise fault(f"{quoted(text)} lacks {lacking}", expected)
        return text

    return AfterValidator(check)


def exactly(count: int) -> AfterValidator:
    """A list of `count` different entries."""

    def check(entries: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(entries) != count:
            raise fault(f"has {len(entries)} entries", f"exactly {count}")
        return _different(entries)

    return AfterValidator(check)


def _different(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    for i, entry in enumerate(entries):
        if entry in entries[:i]:
            raise fault(f"{quoted(str(entry))} is listed twice", "different entries")
    return entries


def _some(entries: Any) -> Any:
    if not entries:
        raise fault("is empty", "at least one entry")
    return entries


Different = AfterValidator(_different)
NotEmpty = AfterValidator(_some)
