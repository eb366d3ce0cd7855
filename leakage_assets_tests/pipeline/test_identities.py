"""The frame's optional parts enter an identity only where a study has them: what the others have made stays current."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.pipeline.geometry import geometry_identity
from leakage_assets.pipeline.training_data import training_set_identity
from leakage_assets.profiles import load_profile
from leakage_assets_tests.small_study import laboratory


@pytest.mark.parametrize("name", ["marker_leakage", "source_rate", "trigger_leakage"])
def test_identities_of_the_first_studies_are_what_they_were(tmp_path: Path, name: str) -> None:
    study = load_profile("tiny").study(name)
    lab = laboratory(tmp_path, study=study)
    rows = training_set_identity(lab, study, study.conditions[0], {"pool": "digest"})
    assert "made_of" not in rows and "anchors" not in geometry_identity(lab, study, "digest")


def test_what_a_study_adds_makes_other_rows_and_another_geometry(tmp_path: Path) -> None:
    study = load_profile("tiny").study("marker_leakage")
    lab = laboratory(tmp_path, study=study)
    condition = study.conditions[0]
    made = replace(study, made_of=lambda _, which: {"arm": which.recipe})
    identity = training_set_identity(lab, made, condition, {})
    assert identity == training_set_identity(lab, study, condition, {}) | {"made_of": {"arm": condition.recipe}}
    anchored = replace(study, anchors=tuple((source, "villain") for source in study.sources))
    assert geometry_identity(lab, anchored, "x") == geometry_identity(lab, study, "x") | {
        "anchors": dict(anchored.anchors)
    }
