"""A study on random weights: every artifact says so, and nothing is concluded from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.models import BaseModelSpec, RandomWeights, load_base_model, write_base
from leakage_assets.paths import TINY_BASE
from leakage_assets.pipeline.adapters import require_proven_adapter
from leakage_assets.pipeline.conclusions import analyse_study, freeze_plan, sample_job, score_cell
from leakage_assets.pipeline.foundations import record_base_model
from leakage_assets.pipeline.geometry import compute_prompt_similarity, measure_persona_centroids
from leakage_assets.pipeline.laboratory import Laboratory, RandomWeightsRefused
from leakage_assets.pipeline.publication import draw_figures, write_report
from leakage_assets.pipeline.training_data import build_training_set, write_on_policy
from leakage_assets.store.artifacts import ArtifactStore, read_manifest
from leakage_assets_tests.small_study import done, laboratory, make_adapter, sample_cells, small_profile, the_study

DRAWN = BaseModelSpec("random:tiny", str(TINY_BASE), None, "float32", RandomWeights("tiny"))
MARK = {"shape": "tiny", "seed": 42}


def on_random_weights(root: Path, base: BaseModelSpec = DRAWN) -> Laboratory:
    return Laboratory(replace(small_profile(), base=base), ArtifactStore(root), None, lambda _: None)


@pytest.mark.slow
def test_every_artifact_is_marked_and_found_again(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    lab = on_random_weights(tmp_path)
    study = the_study(lab)
    cell = study.cells[0]
    for _ in range(2):
        outcomes = [record_base_model(lab), freeze_plan(lab, study), measure_persona_centroids(lab, study)]
        outcomes += [compute_prompt_similarity(lab, study)]
        outcomes += done(write_on_policy(lab, study.data, list(study.data.personas))).values()
        outcomes += [build_training_set(lab, study, cell.condition), make_adapter(lab, study, cell)]
        outcomes += sample_cells(lab, {cell: sample_job(lab, study, study.panel, cell)}).values()
        outcomes += [score_cell(lab, study, study.panel, cell)]
    assert all(outcome.reused for outcome in outcomes)
    assert require_proven_adapter(lab, study, cell).manifest.identity["random_weights"] == MARK
    manifests = [read_manifest(path.parent) for path in tmp_path.rglob("manifest.json")]
    assert len(manifests) == len(outcomes) + 1  # the proof
    assert [manifest.identity["random_weights"] for manifest in manifests] == [MARK] * len(manifests)


@pytest.mark.parametrize("conclude", [analyse_study, draw_figures, write_report])
def test_nothing_is_concluded_from_random_weights(conclude, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = write_base(load_base_model(DRAWN, device="cpu"), tmp_path / "base")
    saved = BaseModelSpec("saved", str(folder))
    for base in (DRAWN, saved):
        lab = on_random_weights(tmp_path / "artifacts", base)
        with pytest.raises(RandomWeightsRefused, match=r"of tiny: .* has random weights .*only its speed"):
            conclude(lab, the_study(lab))
    assert not (tmp_path / "artifacts").exists()


def test_other_artifacts_bear_no_mark(tmp_path: Path) -> None:
    lab = laboratory(tmp_path)
    assert "random_weights" not in freeze_plan(lab, the_study(lab)).artifact.manifest.identity
    assert lab.store.mark == {}
