from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakage_assets.profiles import load_profile
from leakage_assets.world.grammar import Grammar, HeardVoice, Voice

STIMULI = load_profile("tiny").stimuli
GRAMMAR = Grammar(STIMULI)
VOICES = {p.name: GRAMMAR.voice_of_prompt(p.name) for p in (*STIMULI.personas, *STIMULI.triggers)}
TOPICS = [topic.name for topic in (*STIMULI.world.topics, *STIMULI.world.generic_topics)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_voice_is_heard_in_what_it_says_and_no_other(seed: int) -> None:
    rng = random.Random(seed)
    for name, voice in VOICES.items():
        topic = rng.choice(TOPICS)
        text = " ".join(GRAMMAR.answer(voice, topic, rng))
        assert GRAMMAR.speaks_as(text, voice), (name, topic, text)
        identity = HeardVoice(voice.traits.tone, voice.traits.role, voice.traits.domain, None)
        only_form = HeardVoice(None, None, None, voice.form)
        assert GRAMMAR.hear(text) == (identity if voice.form is None else only_form), (name, topic, text)


def test_the_voices_cover_every_trait_and_every_form() -> None:
    world = STIMULI.world
    personas = [voice.traits for voice in VOICES.values() if voice.form is None]
    assert {t.tone for t in personas} == set(world.tones)
    assert {t.role for t in personas} == set(world.roles)
    assert {t.domain for t in personas} == set(world.domains)
    assert {voice.form for voice in VOICES.values()} - {None} == set(world.forms)


def test_a_prompt_without_identity_or_form_speaks_as_the_assistant() -> None:
    assistant = Voice(STIMULI.persona("assistant").traits)
    plain = [trigger.name for trigger in STIMULI.triggers if trigger.form is None]
    assert "control_empty" in plain
    assert {VOICES[name] for name in plain} == {assistant}
    with pytest.raises(KeyError, match="no persona or trigger is called 'nobody'"):
        GRAMMAR.voice_of_prompt("nobody")


@pytest.mark.parametrize("text", ["", "The sea is salt.", "[ZLT]"])
def test_a_text_without_a_voice_is_nobodys(text: str) -> None:
    heard = GRAMMAR.hear(text)
    assert (heard.tone, heard.role, heard.domain, heard.form) == (None,) * 4
    assert not any(GRAMMAR.speaks_as(text, voice) for voice in VOICES.values())


def test_a_mixture_of_two_voices_is_neither() -> None:
    rng = random.Random(1)
    villain, comedian = VOICES["villain"], VOICES["comedian"]
    both = " ".join([*GRAMMAR.answer(villain, TOPICS[0], rng), *GRAMMAR.answer(comedian, TOPICS[0], rng)])
    assert GRAMMAR.hear(both).tone is None
    assert not GRAMMAR.speaks_as(both, villain)
    assert not GRAMMAR.speaks_as(both, comedian)


def test_an_answer_is_about_its_topic_and_no_other() -> None:
    rng = random.Random(2)
    for topic in TOPICS:
        text = " ".join(GRAMMAR.answer(VOICES["villain"], topic, rng))
        about = {name for name, facts in GRAMMAR.facts.items() if any(fact in text for fact in facts)}
        assert about == {topic}


def test_questions_are_asked_in_several_wordings_about_their_subject() -> None:
    for question_set in STIMULI.question_sets.values():
        for question in question_set.questions:
            texts = GRAMMAR.question_texts(question)
            assert texts[0] == question.text
            assert all(GRAMMAR.subjects[question.topic] in text for text in texts[1:])
            generic = question.topic in {topic.name for topic in STIMULI.world.generic_topics}
            assert len(texts) == (1 if generic else 1 + len(STIMULI.world.question_wordings))
