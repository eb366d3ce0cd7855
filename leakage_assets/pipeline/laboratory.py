"""What every stage works with: a profile, its stimuli, the artifact store and one loaded base model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from typing import Any

from leakage_assets.exceptions import ExpectedError
from leakage_assets.generation.choice import chosen_engine, engine_identity
from leakage_assets.generation.engine import Engine
from leakage_assets.generation.vllm_plan import VllmSettings
from leakage_assets.models import (
    RANDOM_WEIGHTS,
    BaseModel,
    BaseModelSpec,
    base_model_identity,
    load_base_model,
    outline_base_model,
    random_weights,
)
from leakage_assets.profiles import Profile
from leakage_assets.store.artifacts import Artifact, ArtifactStore
from leakage_assets.store.fingerprint import fingerprint
from leakage_assets.studies.study import Study
from leakage_assets.training.train import ReportTo

NUMERIC_LIBRARIES = ("accelerate", "numpy", "peft", "tokenizers", "torch", "transformers", "trl")
"""Libraries whose version can change a number: part of the identity of what is trained or generated."""


class RandomWeightsRefused(ExpectedError):
    """A conclusion was asked for, but the base model has random weights: only its speed means something."""


@dataclass(frozen=True)
class Outcome:
    """What a stage did: its artifact, whether it was there already, and numbers worth plotting.

    ``timed``: the time of the artifact's making is that of the work; not so where many share one stream of samples.
    """

    artifact: Artifact
    reused: bool
    metrics: Mapping[str, int | float | str] = field(default_factory=dict)
    timed: bool = True


@dataclass(frozen=True)
class Laboratory:
    """Frozen context of a run.

    ``refresh`` is a token: what was made under another token is made anew. ``emit`` takes plain progress lines; None
    shows a bar where there is a terminal. ``report_to`` is where training curves go besides the artifact.

    Where the base model has random weights, the identity of every artifact says so.
    """

    profile: Profile
    store: ArtifactStore
    refresh: str | None = None
    emit: Callable[[str], None] | None = None
    report_to: ReportTo = "none"

    def __post_init__(self) -> None:
        if (random := random_weights(self.profile.base)) is not None:
            # Frozen, but an artifact must not depend on whoever opened the store to carry the mark.
            object.__setattr__(self, "store", ArtifactStore(self.store.root, {RANDOM_WEIGHTS: random}))

    @cached_property
    def base_identity(self) -> dict[str, Any]:
        return base_model_identity(self.profile.base)

    @cached_property
    def base_fingerprint(self) -> str:
        return fingerprint(self.base_identity)

    def base(self) -> BaseModel:
        """The loaded base model: once per process, whatever the number of cells."""
        return _load_once(self.profile.base, self.base_fingerprint)

    def engine(self) -> Engine:
        """The inference engine of the profile, or the one LEAKAGE_ENGINE names: one per process as well.

        vLLM reads the weights itself: then `base` is loaded only by what trains or measures geometry.

        Raises:
            EngineChoiceError: there is no such engine, or it is not installed.
        """
        profile = self.profile
        return _engine_once(
            chosen_engine(profile.engine),
            profile.base,
            self.base_fingerprint,
            profile.generation_batch,
            profile.serving,
        )

    @property
    def engine_identity(self) -> str | dict[str, str]:
        """What of the engine decides what is said: part of the identity of everything it says. Raises as `engine`."""
        return engine_identity(chosen_engine(self.profile.engine), self.profile.base.dtype)

    def address(self, study: Study | None, *parts: str) -> tuple[str, ...]:
        """Where artifacts of an asset live: ``profile / study / asset / partition...``."""
        return (self.profile.name, *(() if study is None else (study.name,)), *parts)

    def find(self, address: tuple[str, ...], identity: Mapping[str, Any]) -> Artifact | None:
        """The finished artifact whatever its refresh token, or None."""
        return self.store.lookup(address, self._fingerprint(identity))

    def current(self, address: tuple[str, ...], identity: Mapping[str, Any]) -> Artifact | None:
        """The finished artifact, unless it is missing or this run's refresh token asks for a new one."""
        # The token first: what is to be made anew may be damaged.
        if self.refresh is not None and self.store.refresh_token(address, self._fingerprint(identity)) != self.refresh:
            return None
        return self.find(address, identity)

    def require(self, address: tuple[str, ...], identity: Mapping[str, Any], *, remedy: str) -> Artifact:
        """The finished artifact of an upstream stage. Raises ``ArtifactMissing`` with the remedy."""
        return self.store.require(address, self._fingerprint(identity), remedy=remedy)

    def _fingerprint(self, identity: Mapping[str, Any]) -> str:
        return fingerprint(self.store.marked(identity))

    def refuse_random_weights(self, what: str) -> None:
        """Raises ``RandomWeightsRefused`` where the base model is one: nothing is to be concluded from it."""
        if self.store.mark:
            raise RandomWeightsRefused(
                f"{what} of {self.profile.name}: the base model {self.profile.base.name} has random weights "
                f"({self.store.mark[RANDOM_WEIGHTS]}); only its speed means something. Unset LEAKAGE_BASE_MODEL, or "
                "let it name a trained model"
            )


def library_versions(names: Sequence[str] = NUMERIC_LIBRARIES) -> dict[str, str]:
    """Versions of the libraries that change numbers."""
    return {name: _version(name) for name in names}


# Reading a distribution's metadata takes milliseconds, and every identity asks.
_version = cache(version)


@lru_cache(maxsize=1)
def _engine_once(
    name: str, spec: BaseModelSpec, base_fingerprint: str, batch_size: int, serving: VllmSettings
) -> Engine:
    if name == "vllm":
        from leakage_assets.generation.vllm_engine import VllmEngine

        return VllmEngine(outline_base_model(spec), serving)
    from leakage_assets.generation.transformers_engine import TransformersEngine

    return TransformersEngine(_load_once(spec, base_fingerprint), batch_size=batch_size)


@lru_cache(maxsize=1)
def _load_once(spec: BaseModelSpec, base_fingerprint: str) -> BaseModel:
    del base_fingerprint  # part of the key: a base model that changed on disk is loaded anew
    return load_base_model(spec)
