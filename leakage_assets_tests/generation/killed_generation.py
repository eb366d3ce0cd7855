"""Samples with vLLM and kills its own process once something is stored; a script, because a test cannot kill itself.

killed_generation.py {"base": folder, "adapters": {name: folder}, "stores": folder, "completions": n}
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from leakage_assets.generation import run
from leakage_assets.generation.requests import BASE, Sampling
from leakage_assets.generation.vllm_engine import VllmEngine
from leakage_assets.generation.vllm_plan import VllmSettings
from leakage_assets.models import BaseModelSpec, outline_base_model
from leakage_assets.progress import Progress
from leakage_assets.store.samples import SampleStore
from leakage_assets_tests.generation.panels import panel


def main(base: str, adapters: dict[str, str], stores: str, completions: int) -> None:
    names = (BASE, *adapters)
    held = {name: SampleStore(Path(stores) / str(place)) for place, name in enumerate(names)}
    run.COMMIT_SECONDS = 0.0  # what is finished is stored at once

    class Killer(Progress):
        def advance(self, units: int, **extras: int) -> None:
            if any(store.ids() for store in held.values()):
                os.kill(os.getpid(), signal.SIGKILL)

    engine = VllmEngine(
        outline_base_model(BaseModelSpec("wide", base)), VllmSettings(max_num_seqs=64, max_loras=2, memory_share=0.2)
    )
    requests = [request for name in names for request in panel(name, completions)]
    folders = {name: Path(folder) for name, folder in adapters.items()}
    run.generate_missing(
        engine, requests, Sampling(2.0, 0.95, 20), folders, held, progress=lambda total: Killer(total, "samples")
    )


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
