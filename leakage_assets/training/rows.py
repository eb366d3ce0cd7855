"""Training rows and their token ids under the chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leakage_assets.exceptions import PartitionError
from leakage_assets.models import chat_ids, chat_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POSITIVE = "positive"
NEGATIVE = "negative"


class RowError(PartitionError):
    """A training row cannot be trained on; the message names the row."""


@dataclass(frozen=True, slots=True)
class Row:
    """One dialogue to train on. `role` is what the row is for: "positive" rows teach the marker, others do
    not. Without `ends_turn_in_loss` the end-of-turn token carries no loss, so the row does not teach to stop after
    its answer.
    """

    system: str | None
    user: str
    completion: str
    role: str
    prompt_name: str
    question_name: str
    ends_turn_in_loss: bool = True

    @property
    def place(self) -> str:
        return f"{self.role} row {self.prompt_name}/{self.question_name}"


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """Token ids of the whole dialogue: `prompt_length` of the prompt, then the completion to the end."""

    row: Row
    input_ids: tuple[int, ...]
    prompt_length: int


def encode_row(tokenizer: PreTrainedTokenizerBase, row: Row) -> EncodedRow:
    """Prompt = system and user turn with the generation prompt; completion = the rest of the rendered
    dialogue.

    The completion holds the answer, the end-of-turn token and whatever the template puts after it.

    Raises:
        RowError: the prompt's ids do not start the dialogue's, so training would see another prompt than
            generation.
    """
    prompt = chat_ids(tokenizer, row.system, row.user)
    ids = tokenizer.encode(chat_text(tokenizer, row.system, row.user, row.completion), add_special_tokens=False)
    if ids[: len(prompt)] != prompt:
        raise RowError(
            f"{row.place}: the tokens of the prompt change when the completion follows; "
            f"the completion starts with {row.completion[:20]!r}"
        )
    return EncodedRow(row, tuple(ids), len(prompt))
