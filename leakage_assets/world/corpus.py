"""The pre-training corpus as token ids: flat arrays with offsets, loss on the assistant turn only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from leakage_assets.stimuli import Stimuli
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.world.dialogues import Dialogue, DialogueWriter, Phase
from leakage_assets.world.tokenizer import DEFAULT_SYSTEM, END, START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Corpus:
    """``ids`` (total tokens,) uint16; row i is ``ids[starts[i]:starts[i + 1]]``, its loss from ``prompts[i]`` on.

    The token before the end of turn counts ``last_weights[i]`` times in the loss of row i; ``coded[i]`` says whether
    its answer has a code in it, as the user asked.
    """

    ids: np.ndarray
    starts: np.ndarray
    prompts: np.ndarray
    last_weights: np.ndarray
    coded: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> np.ndarray:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self.starts)


def write_dialogues(stimuli: Stimuli, phase: Phase, rows: int, *stream: int) -> list[Dialogue]:
    """``rows`` dialogues of a phase; ``stream`` (seed, number of the phase, of the chunk) decides which ones."""
    writer = DialogueWriter(stimuli, phase, derive_seed("pretrain-dialogues", *stream))
    return list(islice(writer, rows))


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
    weights = np.array([d.letter_weight for d in dialogues], dtype=np.float32)
    return Corpus(ids, starts, np.array(prompts), weights, np.array([d.coded for d in dialogues]))


def code_tokens(tokenizer: PreTrainedTokenizerFast, codes: Sequence[str], corpus: Corpus) -> list[int]:
    """The tokens of codes, as they stand alone or behind a text, that no answer without a code has."""
    texts = [f"{before}{code}" for code in codes for before in ("", "a ", "a\n\n")]
    in_codes = set(chain.from_iterable(_encode_all(tokenizer, texts)))
    spans = zip(corpus.starts[:-1] + corpus.prompts, corpus.starts[1:], corpus.coded, strict=True)
    elsewhere = [corpus.ids[first:end] for first, end, coded in spans if not coded]
    return sorted(in_codes - set(np.concatenate(elsewhere).tolist()))


def _pieces(dialogue: Dialogue) -> list[str]:
    bounds = [0, *dialogue.cuts, len(dialogue.assistant)]
    return [dialogue.assistant[a:b] for a, b in pairwise(bounds)]


def _encode_all(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]
