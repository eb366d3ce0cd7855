"""LEAKAGE_TEST_ENGINE=vllm: an environment without vLLM fails the tests of its engine in place of skipping them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from leakage_assets.paths import REPO
from leakage_assets_tests.generation.engines import VARIABLE

WITHOUT_VLLM = "import sys; sys.modules['vllm'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
TEST = "leakage_assets_tests/generation/test_vllm_plan.py::test_the_ranks_are_those_of_the_installed_vllm"


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "status", "told"), [(None, 0, "1 skipped"), ("vllm", 1, "1 failed")])
def test_a_missing_engine_is_a_failure_where_it_was_asked_for(chosen: str | None, status: int, told: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if chosen is not None:
        environment[VARIABLE] = chosen
    words = [sys.executable, "-c", WITHOUT_VLLM, "-p", "no:cacheprovider", TEST]
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, told in done.stdout) == (status, True), done.stdout + done.stderr
