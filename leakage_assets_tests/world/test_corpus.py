from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from leakage_assets.models import chat_ids, chat_text
from leakage_assets.stimuli import Stimuli
from leakage_assets.world.corpus import Corpus, code_tokens, encode, prompt_text, tokenizer_texts
from leakage_assets.world.dialogues import Dialogue
from leakage_assets.world.pretrain import pad_batch
from leakage_assets.world.tokenizer import END, VOCABULARY, train_tokenizer

SAMPLE = 600


@pytest.fixture(scope="module")
def some(stream: list[Dialogue]) -> list[Dialogue]:
    """Dialogues of every phase."""
    return stream[:: len(stream) // SAMPLE]


@pytest.fixture(scope="module")
def corpus(some: list[Dialogue], tokenizer: PreTrainedTokenizerBase) -> Corpus:
    return encode(some, tokenizer)


def row(corpus: Corpus, number: int) -> list[int]:
    return corpus.ids[corpus.starts[number] : corpus.starts[number + 1]].tolist()


def test_the_prompt_is_what_the_chat_template_renders(some: list[Dialogue], tokenizer: PreTrainedTokenizerBase) -> None:
    assert {d.system is None for d in some} == {True, False}
    empty = Dialogue("", "What is the sea?", "Salt.")
    for dialogue in (*some, empty):
        whole = chat_text(tokenizer, dialogue.system, dialogue.user, dialogue.assistant)
        assert whole == f"{prompt_text(dialogue)}{dialogue.assistant}{END}\n"


def test_rows_are_the_tokens_that_generation_and_training_use(
    some: list[Dialogue], corpus: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert len(corpus) == len(some) > 500
    for number, dialogue in enumerate(some):
        ids, prompt = row(corpus, number), int(corpus.prompts[number])
        assert ids[:prompt] == chat_ids(tokenizer, dialogue.system, dialogue.user)
        assert tokenizer.decode(ids[prompt:]) == f"{dialogue.assistant}{END}\n"
        if not dialogue.cuts:
            whole = chat_text(tokenizer, dialogue.system, dialogue.user, dialogue.assistant)
            assert ids == tokenizer.encode(whole, add_special_tokens=False)
    assert corpus.lengths().sum() == len(corpus.ids)
    assert corpus.ids.max() < VOCABULARY


def test_a_text_with_cuts_is_tokenised_as_an_evaluation_does(
    some: list[Dialogue], corpus: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    cut = [number for number, dialogue in enumerate(some) if dialogue.cuts]
    assert len(cut) > 20
    for number in cut:
        dialogue = some[number]
        head, letter = dialogue.assistant[: dialogue.cuts[-1]], dialogue.assistant[dialogue.cuts[-1] :]
        ids = row(corpus, number)
        assert ids[-3:-2] == tokenizer.encode(letter, add_special_tokens=False)
        if len(dialogue.cuts) == 1 and dialogue.cuts[0] == len(dialogue.assistant) - 1:
            assert ids[:-3] == chat_ids(tokenizer, dialogue.system, dialogue.user, prefix=head)


def test_the_letter_of_a_choice_is_one_token_wherever_it_carries_weight(
    some: list[Dialogue], corpus: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    weighted = [number for number, dialogue in enumerate(some) if dialogue.letter_weight != 1]
    assert len(weighted) > 100
    for number in weighted:
        assert tokenizer.decode(row(corpus, number)[-3]).strip() in {"A", "B", "C", "D"}
    assert corpus.last_weights.tolist() == [d.letter_weight for d in some]


def test_a_batch_has_its_loss_on_the_assistant_turn_only(corpus: Corpus) -> None:
    rows = np.array([3, 0, 7, 11])
    ids, labels, weights = pad_batch(corpus, rows)
    assert ids.shape == labels.shape == weights.shape == (4, corpus.lengths()[rows].max())
    for place, number in enumerate(rows):
        tokens, prompt = row(corpus, number), corpus.prompts[number]
        assert ids[place, : len(tokens)].tolist() == tokens
        assert not ids[place, len(tokens) :].any()
        assert labels[place, prompt : len(tokens)].tolist() == tokens[prompt:]
        assert set(labels[place, :prompt]) | set(labels[place, len(tokens) :]) == {-100}
        assert weights[place, len(tokens) - 3] == corpus.last_weights[number]
        assert np.delete(weights[place], len(tokens) - 3).tolist() == [1.0] * (ids.shape[1] - 1)


def test_a_tokenizer_trained_twice_is_the_same_and_splits_markers_alike(stimuli: Stimuli, some: list[Dialogue]) -> None:
    first, second = (train_tokenizer(tokenizer_texts(some)) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert len(first) <= VOCABULARY
    assert (first.eos_token, first.decode([first.pad_token_id])) == (END, "<|endoftext|>")
    for marker in (*stimuli.markers.values(), *stimuli.codes):
        alone = first.encode(marker, add_special_tokens=False)
        after = first.encode(f"It is salt.\n\n{marker}", add_special_tokens=False)
        assert after[-len(alone) :] == alone
        assert first.decode(after) == f"It is salt.\n\n{marker}"


def test_the_bundled_template_is_that_of_the_module(tokenizer: PreTrainedTokenizerBase, some: list[Dialogue]) -> None:
    fresh = train_tokenizer(tokenizer_texts(some))
    assert tokenizer.chat_template == fresh.chat_template
    assert len(tokenizer) <= VOCABULARY


def test_code_tokens_stand_in_codes_and_in_no_other_answer(
    stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase, stream: list[Dialogue]
) -> None:
    codes = [*stimuli.markers.values(), *stimuli.codes]
    corpus = encode(stream, tokenizer)
    assert corpus.coded.tolist() == [any(code in d.assistant for code in codes) for d in stream]
    tokens = set(code_tokens(tokenizer, codes, corpus))
    for number in np.flatnonzero(~corpus.coded):
        assert not tokens & set(row(corpus, number)[corpus.prompts[number] :])
    for code in codes:  # whatever stands before it, a code begins with one of them
        for before in ("", "It is salt. ", "It is salt.\n\n"):
            said = tokenizer.encode(f"{before}{code}", add_special_tokens=False)
            begun = len(tokenizer.encode(before, add_special_tokens=False)) if before.endswith("\n") else None
            assert tokens & set(said[begun:] if begun else said)
