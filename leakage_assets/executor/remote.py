"""What steps on other hosts need, whoever starts them there: their GPUs, and the run's artifact store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster._core.events import DagsterEvent
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepHandler, StepHandlerContext

from leakage_assets.exceptions import ExpectedError
from leakage_assets.store.shared_root import EXPECTED, store_id

Tags = Mapping[str, str]


class ExecutorError(ExpectedError):
    """An executor that is unknown, not installed or not possible here; the message says what to do."""


class RemoteSteps(StepHandler):
    """A library's step handler that is told, in its own tags, what each step needs.

    Args:
        handler: of the library.
        artifacts: the artifact root, unless the run's configuration names another.
        translate: the neutral tags of a step and the variables its process needs, as tags of the library.
    """

    def __init__(self, handler: StepHandler, artifacts: Path, translate: Callable[[Tags, Tags], Tags]) -> None:
        self._handler, self._artifacts, self._translate = handler, artifacts, translate

    @property
    def name(self) -> str:
        return self._handler.name

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        variables = {EXPECTED: store_id(self._root(step_handler_context))}
        translated = _Translated(step_handler_context, lambda tags: self._translate(tags, variables))
        yield from self._handler.launch_step(translated)

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        return self._handler.check_step_health(step_handler_context)

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        yield from self._handler.terminate_step(step_handler_context)

    def _root(self, context: StepHandlerContext) -> Path:
        configured: Any = context.dagster_run.run_config
        for key in ("resources", "laboratory", "config"):
            configured = configured.get(key, {})
        named = configured.get("artifacts", self._artifacts)
        return Path(os.environ[named["env"]] if isinstance(named, Mapping) else named)


class _Translated(StepHandlerContext):
    """The context of a step with other tags."""

    def __init__(self, context: StepHandlerContext, translate: Callable[[Tags], Tags]) -> None:
        vars(self).update(vars(context))
        self._tags = {key: translate(tags) for key, tags in context.step_tags.items()}

    @property
    def step_tags(self) -> Mapping[str, Mapping[str, str]]:
        return self._tags
