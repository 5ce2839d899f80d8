"""The cache's part of the supervision tree.

    cache              rest_for_one
    ├── cache:arbiter
    ├── cache:ram  cache:ram_file  cache:disk     those that have a quota
    └── cache:writers

A crash of the arbiter restarts everything behind it: the tiers tell the new one what they hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from erllama.actor import Registry
from erllama.actor.childspec import ChildSpec
from erllama.actor.supervisor import Supervisor
from erllama.cache.actor_refs import ARBITER, WRITERS, CacheActors, tier_name
from erllama.cache.arbiter import Arbiter
from erllama.cache.messages import TierPlace
from erllama.cache.publish import Observer
from erllama.cache.shared_view import CacheView
from erllama.cache.tiers.files import FilesTier
from erllama.cache.tiers.ram import RamTier
from erllama.cache.trie import Tier
from erllama.cache.writers import Writers

_MAILBOX = 10_000


def cache_supervisor(
    view: CacheView,
    registry: Registry,
    *,
    ram_bytes: int,
    places: Sequence[TierPlace],
    intensity: int,
    period: float,
    shutdown: float,
    at: Observer | None = None,
) -> Supervisor:
    """A supervisor for the cache's actors.

    Args:
        view: what they show.
        ram_bytes: quota of the RAM tier; 0: there is none.
        places: the tiers of files.
        at: told every stage of publishing, for tests.
    """
    actors = CacheActors(registry)
    quotas: dict[Tier, int] = {place.tier: place.quota for place in places}
    quotas["ram"] = ram_bytes

    def files_tier(place: TierPlace) -> ChildSpec:
        name = tier_name(place.tier)
        return ChildSpec(
            name,
            lambda: FilesTier(place, view, actors, at=at),
            shutdown=shutdown,
            mailbox_capacity=_MAILBOX,
        )

    specs = [
        ChildSpec(ARBITER, lambda: Arbiter(view, actors, quotas), mailbox_capacity=_MAILBOX),
        ChildSpec(tier_name("ram"), lambda: RamTier(view, actors), mailbox_capacity=_MAILBOX),
        *(files_tier(place) for place in places),
        ChildSpec(
            WRITERS, lambda: Writers(view, actors), shutdown=shutdown, mailbox_capacity=_MAILBOX
        ),
    ]
    return Supervisor(
        specs, strategy="rest_for_one", intensity=intensity, period=period, registry=registry
    )
