"""The LoRA adapters of a loaded model.

Contract
    State     `Gauges.adapters`: those in force for new requests; it outlives the actor, which loads
              them again with its model. `_retired`: unloaded ones that requests still have.
    Writer    the model's actor and its tasks.
    Snapshot  a request keeps the adapters and scales that were in force when it was taken.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

import msgspec

from erllama.backend.base import AdapterUse, Engine, FingerprintMemory
from erllama.backend.fingerprint import safe_fingerprint
from erllama.backend.workers import Workers
from erllama.errors import ModelLoadError, NotSupported, RequestError
from erllama.model.engine_owner import EngineOwner
from erllama.model.gauges import Gauges
from erllama.types import Adapter

MOST = 32
"""Adapters of one model."""


class ModelAdapters:
    """See the module."""

    def __init__(
        self,
        *,
        owner: EngineOwner,
        gauges: Gauges,
        workers: Workers,
        memory: FingerprintMemory,
    ) -> None:
        self._owner = owner
        self._gauges = gauges
        self._workers = workers
        self._memory = memory
        self._retired: set[int] = set()

    @property
    def in_force(self) -> tuple[AdapterUse, ...]:
        """What a request that is taken now has."""
        return tuple(
            AdapterUse(one.id, one.sha256, one.scale) for one in self._gauges.adapters if one.scale
        )

    async def load(self, engine: Engine, path: str, scale: float) -> Adapter:
        """Load an adapter; from then on it is in force for new requests.

        Raises:
            NotSupported: the model takes none.
            RequestError: too many are loaded.
            ModelLoadError: the file cannot be used.
        """
        gauges = self._gauges
        if not engine.capabilities.adapters:
            raise NotSupported(f"model {gauges.id!r} does not generate, so it takes no adapters")
        if len(gauges.adapters) + len(self._retired) >= MOST:
            raise RequestError(f"adapters: {MOST} are loaded; unload one first")
        gauges.adapters_ever += 1
        number = gauges.adapters_ever
        digest = await self._workers.run(lambda: self._look(engine, path))
        await self._owner.call(lambda engine: engine.load_adapter(number, path))
        adapter = Adapter(id=number, path=path, sha256=digest, scale=scale)
        gauges.adapters = (*gauges.adapters, adapter)
        return adapter

    async def load_again(self) -> None:
        """After a crash: load what was loaded.

        Raises:
            ModelLoadError: a file is gone, or another one by now.
        """
        for one in self._gauges.adapters:
            digest = await self._workers.run(lambda path=one.path: self._hash(path))  # type: ignore[misc]
            if digest != one.sha256:
                raise ModelLoadError(f"{one.path}: the adapter was changed since it was loaded")
            await self._owner.call(
                lambda engine, one=one: engine.load_adapter(one.id, one.path)  # type: ignore[misc]
            )

    def unload(self, number: int) -> None:
        """New requests do without it.

        Raises:
            RequestError: it is not loaded.
        """
        self._known(number)
        self._gauges.adapters = tuple(one for one in self._gauges.adapters if one.id != number)
        self._retired.add(number)

    def set_scale(self, number: int, scale: float) -> None:
        """New requests have it so strongly.

        Raises:
            RequestError: it is not loaded.
        """
        self._known(number)
        self._gauges.adapters = tuple(
            msgspec.structs.replace(one, scale=scale) if one.id == number else one
            for one in self._gauges.adapters
        )

    def free_unused(self, had: Iterable[tuple[AdapterUse, ...]]) -> None:
        """Free the unloaded ones that no request has. Between two steps only.

        Args:
            had: of each request what it has.
        """
        if not self._retired:
            return
        used = {use.id for uses in had for use in uses}
        for number in sorted(self._retired - used):
            self._retired.discard(number)
            self._owner.run(
                lambda engine, number=number: engine.free_adapter(number),  # type: ignore[misc]
                lambda *_: None,
            )

    def _known(self, number: int) -> None:
        if all(one.id != number for one in self._gauges.adapters):
            raise RequestError(
                f"adapter: {number} is not loaded here; see adapters() for those that are"
            )

    def _look(self, engine: Engine, path: str) -> str:
        engine.check_adapter(path)
        return self._hash(path)

    def _hash(self, path: str) -> str:
        return safe_fingerprint([pathlib.Path(path)], self._memory, lambda _: True)
