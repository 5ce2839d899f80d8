"""`Runtime`: builds the supervision tree and is the door to it.

    runtime     one_for_one
    ├── lane    a handle on the process-wide compute thread
    └── models  one actor per loaded model

Contract
    State     new → running → stopped. `_specs` has an entry for every model that is loaded or
              being loaded; it outlives crashes, so that a restarted `models` supervisor starts
              them all again.
    Writers   `_specs`: `load_model` and `unload_model` only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import msgspec

from erllama.actor import Ref, Registry, start
from erllama.actor.childspec import ChildInfo, ChildSpec, StartChild, StopChild
from erllama.actor.failures import ChildNotFound
from erllama.actor.intensity import Intensity
from erllama.actor.supervisor import Supervisor, tree
from erllama.backend.base import Backend
from erllama.backend.compilers import Compilers
from erllama.backend.fingerprint import FileHashes
from erllama.backend.lane import Lane
from erllama.backend.lane_actor import LaneActor
from erllama.backend.workers import Workers
from erllama.cache.actor_refs import CacheActors
from erllama.cache.facade import Cache
from erllama.cache.messages import TierPlace
from erllama.cache.policy import CachePolicy
from erllama.cache.shared_view import CacheView
from erllama.cache.supervisor import cache_supervisor
from erllama.checked import Checked, unknown_keyword
from erllama.clock import Clock, LoopClock
from erllama.config import ContextConfig, ModelConfig, RuntimeConfig
from erllama.errors import (
    ActorDied,
    CallTimeout,
    ConfigError,
    EngineCrashed,
    EngineStuck,
    ModelAlreadyLoaded,
    ModelLoadError,
    ModelNotFound,
    RuntimeStopped,
)
from erllama.model.actor import ModelSpec
from erllama.model.chat_memory import ChatMemory
from erllama.model.gauges import Gauges
from erllama.model.handle import Model
from erllama.model.messages import AwaitReady
from erllama.option_types import LoadOptions, RuntimeOptions
from erllama.types import ActorNode, ModelInfo, RuntimeStatus

C = TypeVar("C", bound=Checked)

_FIND_S = 30.0
_MANY = 1_000_000  # each model's own intensity decides; one bad model must not end the others
_STOP_MARGIN_S = 5.0


def llama_backend() -> Backend:
    """The llama.cpp backend, imported when the first model needs it."""
    from erllama.backend.llama import LlamaBackend

    return LlamaBackend()


class Runtime:
    """Loads models and runs them on the current event loop.

    An async context manager; or `start()` and `stop()` where a framework has hooks for them.

    Args:
        config: settings of the runtime.
        overrides: fields of `RuntimeConfig`, in place of those of `config`.
        backend: what runs models; llama.cpp unless given.

    Raises:
        ConfigError: a value that cannot be used.
        TypeError: an unknown keyword.
    """

    def __init__(
        self,
        config: RuntimeConfig | None = None,
        *,
        backend: Callable[[], Backend] = llama_backend,
        **overrides: Unpack[RuntimeOptions],
    ) -> None:
        self.config = _override(config, RuntimeConfig, overrides)
        self.clock: Clock = LoopClock()
        self._backend = backend
        self._specs: dict[str, ModelSpec] = {}
        self._root: Ref | None = None
        self._registry = Registry()
        self.view = CacheView()
        self.cache = Cache(self)
        self._changing = asyncio.Lock()
        self._finders: dict[str, set[asyncio.Timeout]] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Build the tree; does nothing if it stands.

        Raises:
            EngineStuck: an earlier compute thread of this process hangs.
        """
        async with self._changing:
            if self._root is not None and not self._root.alive:
                await self._end()
            if self._root is None:
                await self._begin()

    async def stop(self) -> None:
        """Unload everything and end the tree; does nothing if it does not stand."""
        async with self._changing:
            await self._end()

    @property
    def actors(self) -> CacheActors:
        """The actors of the cache."""
        return CacheActors(self._registry)

    async def _begin(self) -> None:
        self._registry = Registry()
        self._lane = Lane()
        self._workers = Workers()
        self._readers = Workers(2, low_priority=False)
        self._compilers = Compilers()
        self.view = CacheView()
        self._memory = await asyncio.to_thread(FileHashes, self.config.cache_dir)
        supervisor = Supervisor(
            [
                ChildSpec("lane", lambda: LaneActor(self._lane), shutdown=2 * _STOP_MARGIN_S),
                ChildSpec("cache", self._cache_supervisor, shutdown=float("inf")),
                ChildSpec("models", self._models_supervisor, shutdown=float("inf")),
            ],
            strategy="one_for_one",
            intensity=self.config.restart_intensity,
            period=self.config.restart_period_s,
            registry=self._registry,
        )
        self._root = await start(supervisor, name="runtime")

    async def _end(self) -> None:
        root, self._root = self._root, None
        if root is None:
            return
        for model_id in list(self._specs):
            self._forget(model_id)
        try:
            with contextlib.suppress(EngineStuck):
                await self._lane.start()  # if it just went down: engines are freed on it
            await root.stop(deadline=self.config.shutdown_s + _STOP_MARGIN_S)
        finally:
            self._workers.close()
            self._readers.close()
            self._compilers.close()
            await self._lane.stop()  # done already, unless the tree was killed

    async def load_model(
        self,
        path: str | os.PathLike[str],
        *,
        model_id: str | None = None,
        model: ModelConfig | None = None,
        context: ContextConfig | None = None,
        policy: CachePolicy | None = None,
        **overrides: Unpack[LoadOptions],
    ) -> Model:
        """Load a GGUF model.

        Cancelling gives the loading up.

        Args:
            path: the file; of a split model, the first one.
            model_id: how the model is called here; the file's name without its suffix by default.
            model: how to load the weights.
            context: the context to compute in.
            policy: what of the model's work is kept in the KV cache.
            overrides: fields of `ModelConfig`, `ContextConfig` and `CachePolicy`, in place of
                those.

        Raises:
            ModelAlreadyLoaded: the id is taken.
            ModelLoadError: the file is missing or cannot be loaded.
            ConfigError, TypeError: an option that cannot be used, or does not exist.
            RuntimeStopped: the runtime does not run.
        """
        self._running()
        spec = self._make_spec(path, model_id, model, context, policy, overrides)
        self._specs[spec.id] = spec
        try:
            await self._start_model(spec)
        except BaseException:
            await asyncio.shield(self._drop(spec))
            raise
        return Model(self, spec.id)

    def model(self, model_id: str) -> Model:
        """The loaded model of this id.

        Raises:
            ModelNotFound: there is none.
        """
        self.gauges(model_id)
        return Model(self, model_id)

    def list_models(self) -> list[ModelInfo]:
        """All models that are loaded, in the order of loading."""
        infos = [spec.gauges.info for spec in self._specs.values()]
        return [info for info in infos if info is not None]

    async def unload_model(self, model_id: str) -> None:
        """End the model's requests and free its memory.

        Raises:
            ModelNotFound: no model of this id is loaded.
        """
        self.gauges(model_id)
        await self._drop(self._specs[model_id])

    def status(self) -> RuntimeStatus:
        """A snapshot of the tree, the models and the lane; does not wait.

        Raises:
            RuntimeStopped: the runtime does not run.
        """
        root = self._running()
        now = self.clock.now()
        return RuntimeStatus(
            tree=_node(tree(root)),
            models=tuple(spec.gauges.snapshot(now) for spec in self._specs.values()),
            lane=self._lane.status(),
        )

    # For Model

    async def find(self, model_id: str, timeout: float | None) -> Ref:
        """The live actor of a model; waits while it is being restarted.

        Raises:
            ModelNotFound, RuntimeStopped: as the words say, also if it happens meanwhile.
            CallTimeout: it did not come back within `timeout` seconds.
            EngineCrashed: it did not come back at all.
        """
        self._running()
        self.gauges(model_id)
        ref = self._registry.whereis(_actor_name(model_id))
        if ref is not None:
            return ref
        limit = asyncio.timeout(_FIND_S if timeout is None else min(timeout, _FIND_S))
        finders = self._finders.setdefault(model_id, set())
        finders.add(limit)
        try:
            async with limit:
                return await self._registry.wait_for(_actor_name(model_id))
        except TimeoutError:
            self._running()
            self.gauges(model_id)
            if timeout is not None and timeout <= _FIND_S:
                raise CallTimeout(
                    f"timeout: model {model_id!r} was not back {timeout:g} s after a crash"
                ) from None
            raise EngineCrashed(
                f"model {model_id!r} crashed and did not come back in time; try again"
            ) from None
        finally:
            finders.discard(limit)

    def gauges(self, model_id: str) -> Gauges:
        """What a model shows of itself.

        Raises:
            ModelNotFound: there is none.
        """
        return self._spec(model_id).gauges

    def chats(self, model_id: str) -> ChatMemory:
        """The recent chats of a model.

        Raises:
            ModelNotFound: there is none.
        """
        return self._spec(model_id).chats

    def _spec(self, model_id: str) -> ModelSpec:
        spec = self._specs.get(model_id)
        if spec is None:
            known = ", ".join(sorted(self._specs)) or "none"
            raise ModelNotFound(f"no model {model_id!r} is loaded here (loaded: {known})")
        return spec

    # The tree

    def _cache_supervisor(self) -> Supervisor:
        config = self.config
        places = []
        if config.ram_file_bytes:
            folder = config.ram_file_dir or f"/dev/shm/erllama-{os.getuid()}"
            places.append(
                TierPlace("ram_file", pathlib.Path(folder).expanduser(), config.ram_file_bytes)
            )
        if config.cache_dir is not None and config.disk_bytes:
            kv = pathlib.Path(config.cache_dir).expanduser() / "kv"
            places.append(
                TierPlace(
                    "disk", kv, config.disk_bytes, config.cache_read_only, config.cache_if_locked
                )
            )
        return cache_supervisor(
            self.view,
            self._registry,
            ram_bytes=config.ram_bytes,
            places=places,
            intensity=config.restart_intensity,
            period=config.restart_period_s,
            shutdown=config.shutdown_s,
        )

    def _models_supervisor(self) -> Supervisor:
        return Supervisor(
            [self._child(spec) for spec in self._specs.values()],
            strategy="one_for_one",
            intensity=_MANY,
            period=self.config.restart_period_s,
            registry=self._registry,
        )

    def _child(self, spec: ModelSpec) -> ChildSpec:
        return ChildSpec(
            spec.id,
            spec.build,
            restart="transient",
            shutdown=self.config.shutdown_s,
            mailbox_capacity=spec.context.max_queue + 64,
            name=_actor_name(spec.id),
        )

    def _running(self) -> Ref:
        if self._root is None:
            raise RuntimeStopped("the runtime is not running; use `async with`, or `start()`")
        if not self._root.alive:
            raise RuntimeStopped(f"the runtime went down: {self._root.reason!r}; start it again")
        return self._root

    def _make_spec(
        self,
        path: str | os.PathLike[str],
        model_id: str | None,
        model: ModelConfig | None,
        context: ContextConfig | None,
        policy: CachePolicy | None,
        overrides: Mapping[str, Any],
    ) -> ModelSpec:
        model_fields, context_fields, policy_fields = _split(overrides)
        file = _model_file(path)
        chosen = model_id if model_id is not None else file.stem
        if not isinstance(chosen, str):
            raise ConfigError(f"model_id: expected a str, got {type(chosen).__name__}")
        if not chosen:
            raise ConfigError("model_id: is empty; give the model a name")
        if chosen in self._specs:
            raise ModelAlreadyLoaded(
                f"a model {chosen!r} is loaded already; unload it first, or choose another model_id"
            )
        context_config = _override(context, ContextConfig, context_fields)
        policy_config = _override(policy, CachePolicy, policy_fields)
        return ModelSpec(
            id=chosen,
            path=str(file),
            backend=self._backend,
            model=_override(model, ModelConfig, model_fields),
            context=context_config,
            lane=self._lane,
            workers=self._workers,
            memory=self._memory,
            readers=self._readers,
            compilers=self._compilers,
            view=self.view,
            actors=self.actors,
            policy=policy_config,
            gauges=Gauges(chosen),
            crashes=Intensity(self.config.restart_intensity, self.config.restart_period_s),
            signing_key=self.config.signing_key,
        )

    async def _start_model(self, spec: ModelSpec) -> None:
        try:
            models = await self._registry.wait_for("models", _FIND_S)
            with contextlib.suppress(ChildNotFound):  # one of this id that is still unloading
                await models.call(StopChild(spec.id))
            ref: Ref = await models.call(StartChild(self._child(spec)))
            await ref.call(AwaitReady())
        except ActorDied as died:
            self._running()
            if self._specs.get(spec.id) is not spec:
                raise ModelLoadError(f"{spec.path}: was unloaded while it was loading") from died
            raise EngineCrashed(
                f"model {spec.id!r}: its actor went down while loading: {died.reason!r}"
            ) from died

    async def _drop(self, spec: ModelSpec) -> None:
        if self._specs.get(spec.id) is not spec:
            return  # whoever took it out stops it; the id may be another model's by now
        self._forget(spec.id)
        models = self._registry.whereis("models")
        if models is None:
            return  # it is going down with its children, and comes back without this one
        with contextlib.suppress(ActorDied, ChildNotFound):
            await models.call(StopChild(spec.id))

    def _forget(self, model_id: str) -> None:
        """Take a model out of the directory, and tell those who wait for it to come back."""
        del self._specs[model_id]
        for limit in self._finders.pop(model_id, ()):
            if not limit.expired():
                limit.reschedule(0.0)


@contextlib.asynccontextmanager
async def load(
    path: str | os.PathLike[str],
    *,
    model_id: str | None = None,
    model: ModelConfig | None = None,
    context: ContextConfig | None = None,
    policy: CachePolicy | None = None,
    **overrides: Unpack[LoadOptions],
) -> AsyncIterator[Model]:
    """One model in a runtime of its own, cleaned up on exit.

    Args:
        path: a GGUF file.
        model_id, model, context, policy, overrides: those of `Runtime.load_model`.
    """
    async with Runtime() as runtime:
        yield await runtime.load_model(
            path, model_id=model_id, model=model, context=context, policy=policy, **overrides
        )


def _override(config: C | None, kind: type[C], fields: Mapping[str, Any]) -> C:
    if config is None:
        return kind(**fields)
    if not isinstance(config, kind):
        raise ConfigError(f"expected a {kind.__name__}, got {type(config).__name__}")
    return kind(**{**msgspec.structs.asdict(config), **fields})


def _split(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Options of the model, of the context and of the cache policy.

    Raises:
        TypeError: an option of none of them; names the nearest one.
    """
    own = {"model_id", "model", "context", "policy"}
    kinds: tuple[type[Checked], ...] = (ModelConfig, ContextConfig, CachePolicy)
    known = {name for kind in kinds for name in kind.__struct_fields__}
    for name in overrides:
        if name not in known:
            raise TypeError(unknown_keyword("load_model", name, known | own))
    return tuple(
        {name: value for name, value in overrides.items() if name in kind.__struct_fields__}
        for kind in kinds
    )


def _model_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file that a caller names.

    Raises:
        ConfigError: what cannot be the path of a file.
    """
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise ConfigError(f"path: expected the path of a GGUF file, got {type(name).__name__}")
    if not name or "\0" in name:
        raise ConfigError(f"path: {name!r} names no file; give the path of a GGUF file")
    try:
        return pathlib.Path(name).expanduser()
    except RuntimeError as wrong:
        raise ConfigError(f"path: {name!r}: {wrong} Give the path in full") from None


def _actor_name(model_id: str) -> str:
    return f"model:{model_id}"


def _node(child: ChildInfo) -> ActorNode:
    return ActorNode(
        id=child.id,
        state=child.state,
        restarts=child.restarts,
        children=tuple(_node(grandchild) for grandchild in child.children),
    )
