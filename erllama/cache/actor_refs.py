"""How the actors of the cache find each other: by name, through the registry."""

from __future__ import annotations

from erllama.actor import Ref, Registry
from erllama.cache.trie import Tier

ARBITER = "cache:arbiter"
WRITERS = "cache:writers"


def tier_name(tier: Tier) -> str:
    """The registered name of a tier's actor."""
    return f"cache:{tier}"


class CacheActors:
    """The live actors of one runtime's cache."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def arbiter(self) -> Ref | None:
        return self._registry.whereis(ARBITER)

    @property
    def writers(self) -> Ref | None:
        return self._registry.whereis(WRITERS)

    def tier(self, tier: Tier) -> Ref | None:
        """The actor of a tier, if it is up."""
        return self._registry.whereis(tier_name(tier))

    def tell_arbiter(self, message: object) -> None:
        """An urgent message; lost if the arbiter is down, which restarts everything behind it."""
        arbiter = self.arbiter
        if arbiter is not None:
            arbiter.urgent(message)
