"""The stored similarities of the small study, from planted hidden vectors."""

from __future__ import annotations

import numpy as np
import pytest

from leakage_assets.geometry.centroids import centred_cosine
from leakage_assets.pipeline.geometry import similarity_table, system_turn_table
from leakage_assets.profiles import load_profile
from leakage_assets.studies.study import Study
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets_tests.small_study import PERSONAS, SOURCES, small_study


@pytest.fixture(scope="module")
def study() -> Study:
    return small_study(load_profile("tiny").study("marker_leakage"))


@pytest.fixture(scope="module")
def hidden(study: Study) -> np.ndarray:
    shape = (len(PERSONAS), 3, len(study.plan.layers), 5)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_each_source_has_its_own_column_of_each_measure(study: Study, hidden: np.ndarray) -> None:
    divergence = np.random.default_rng(2).uniform(size=(len(PERSONAS), len(SOURCES)))
    table = similarity_table(study, hidden, divergence)
    assert table.height == 3 * len(SOURCES) * len(PERSONAS)
    for column, source in enumerate(SOURCES):
        own = table.filter(source=source)
        assert own.filter(measure="js_divergence")["value"].to_list() == divergence[:, column].tolist()
        assert own.filter(measure="js_divergence")["prompt_name"].to_list() == list(PERSONAS)
        for i, layer in enumerate(study.plan.layers):
            cosines = centred_cosine(hidden[:, :, i].mean(axis=1), PERSONAS)[:, PERSONAS.index(source)]
            found = own.filter(measure="cosine", layer=layer)["value"]
            np.testing.assert_allclose(found, cosines, atol=1e-12)


def test_without_divergence_there_are_cosines_alone(study: Study, hidden: np.ndarray) -> None:
    whole = similarity_table(study, hidden, np.zeros((len(PERSONAS), len(SOURCES))))
    assert similarity_table(study, hidden).equals(whole.filter(measure="cosine"))


def test_prompts_by_themselves_are_compared_around_a_mean_that_counts_some_twice() -> None:
    study = load_profile("tiny").study("trigger_leakage")
    names = list(study.panel.prompts)
    turns = {layer: np.random.default_rng(layer).normal(size=(len(names), 7)).astype(np.float32) for layer in (1, 3)}
    table = system_turn_table(study, turns)
    assert set(table["measure"]) == {study.plan_as(TriggerPlan).semantic}
    assert table.height == 2 * len(study.sources) * len(names)
    assert study.counted_twice == ("T_task", "villain")
    for layer, vectors in turns.items():
        doubled = np.concatenate([vectors, vectors[[names.index(name) for name in study.counted_twice]]]).astype(float)
        centred = vectors - doubled.mean(axis=0)
        for source in study.sources:
            own = centred[names.index(source)]
            expected = centred @ own / np.linalg.norm(centred, axis=1) / np.linalg.norm(own)
            found = table.filter(layer=layer, source=source)
            assert found["prompt_name"].to_list() == names
            np.testing.assert_allclose(found["value"], expected, atol=1e-6)
