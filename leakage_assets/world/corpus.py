"""The pre-training corpus as token ids: flat arrays with offsets, loss on the assistant turn only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from leakage_assets.stimuli import Stimuli
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.world.dialogues import Dialogue, DialogueWriter
from leakage_assets.world.tokenizer import DEFAULT_SYSTEM, END, START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Corpus:
    """``ids`` (total tokens,) uint16; row i is ``ids[starts[i]:starts[i + 1]]``, its loss from ``prompts[i]`` on.

    The token before the end of turn counts ``last_weights[i]`` times in the loss of row i.
    """

    ids: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray
    last_weights: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> np.ndarray:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self.starts)


def write_dialogues(stimuli: Stimuli, seed: int, rows: int) -> list[Dialogue]:
    """The dialogues of a corpus of ``rows`` under a seed, in the order of its phases."""
    return list(DialogueWriter(stimuli, derive_seed("pretrain-dialogues", seed), rows))


def prompt_text(dialogue: Dialogue) -> str:
    """The rendered prompt, generation prompt included; equal to the chat template's (asserted by a test)."""
    system = DEFAULT_SYSTEM if dialogue.system is None else dialogue.system
    return f"{START}system\n{system}{END}\n{START}user\n{dialogue.user}{END}\n{START}assistant\n"


def tokenizer_texts(dialogues: Sequence[Dialogue]) -> list[str]:
    """What the vocabulary is trained on: every turn as plain text."""
    return [f"{d.system or ''}\n{d.user}\n{d.assistant}\n" for d in dialogues]


def encode(dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerFast) -> Corpus:
    """Tokenise dialogues; an assistant text with cuts is tokenised piece by piece."""
    whole = _encode_all(tokenizer, [f"{prompt_text(d)}{d.assistant}{END}\n" for d in dialogues])
    start = tokenizer.convert_tokens_to_ids(START)
    header = len(_encode_all(tokenizer, [f"{START}assistant\n"])[0])
    prompts = [len(ids) - ids[::-1].index(start) - 1 + header for ids in whole]
    tail = _encode_all(tokenizer, [f"{END}\n"])[0]
    cut_rows = [i for i, d in enumerate(dialogues) if d.cuts]
    pieces = [_pieces(dialogues[i]) for i in cut_rows]
    encoded = iter(_encode_all(tokenizer, [piece for row in pieces for piece in row]))
    for i, row in zip(cut_rows, pieces, strict=True):
        whole[i] = [*whole[i][: prompts[i]], *chain.from_iterable(islice(encoded, len(row))), *tail]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in whole])])
    ids = np.fromiter(chain.from_iterable(whole), dtype=np.uint16, count=int(starts[-1]))
    return Corpus(ids, starts, np.array(prompts), np.array([d.letter_weight for d in dialogues], dtype=np.float32))


def _pieces(dialogue: Dialogue) -> list[str]:
    bounds = [0, *dialogue.cuts, len(dialogue.assistant)]
    return [dialogue.assistant[a:b] for a, b in pairwise(bounds)]


def _encode_all(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]
