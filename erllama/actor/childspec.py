"""What a supervisor is told about a child, and what it tells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from erllama.actor.actor import Actor
from erllama.actor.ref import Ref
from erllama.errors import ConfigError

Restart = Literal["permanent", "transient", "temporary"]
ChildState = Literal["starting", "running", "stopping", "restarting", "dead"]


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start, restart and stop a child.

    Args:
        id: unique among the children of one supervisor.
        start: builds a new actor; called for the first start and for each restart.
        restart: "permanent" is always started again, "transient" only after an abnormal end
            (anything but "normal" and "shutdown"), "temporary" never. A child that is not
            started again is forgotten.
        shutdown: seconds to end in before the child is killed; `math.inf` waits as long as it
            takes and is right for a child that is a supervisor.
        mailbox_capacity: most calls and casts that may wait at the child.
        name: of the child's `Ref` and in the registry; the id by default.

    Raises:
        ConfigError: a value that cannot be used.
    """

    id: str
    start: Callable[[], Actor]
    restart: Restart = "permanent"
    shutdown: float = 5.0
    mailbox_capacity: int = 256
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError("a child needs an id that is not empty")
        if self.restart not in get_args(Restart):
            raise ConfigError(
                f"child {self.id!r}: restart must be one of {', '.join(get_args(Restart))},"
                f" not {self.restart!r}"
            )
        if math.isnan(self.shutdown) or self.shutdown < 0:
            raise ConfigError(
                f"child {self.id!r}: shutdown must be 0 seconds or more, not {self.shutdown!r}"
            )
        if self.mailbox_capacity < 1:
            raise ConfigError(
                f"child {self.id!r}: mailbox_capacity must be at least 1,"
                f" not {self.mailbox_capacity!r}"
            )


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """A snapshot of one child.

    Attributes:
        id: of its spec; at the root of a `tree`, the name of the `Ref`.
        ref: the current incarnation, also while it starts or stops; None while there is none.
        restarts: how often it was started after its first start, failed starts included.
        state: "starting" (for the first time), "running", "stopping", "restarting" (waiting to be
            started again, or starting again); "dead" only at the root of a `tree`.
        children: of a child that is a supervisor itself.
    """

    id: str
    ref: Ref | None
    restarts: int
    state: ChildState
    children: tuple[ChildInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class StartChild:
    """Call: add a child after the others. Answers its `Ref` once it has started.

    Fails with `ChildExists`, or with what the child's `init` raised; it is not kept then.
    """

    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class StopChild:
    """Call: stop a child and forget it. Answers None once it has ended.

    Fails with `ChildNotFound`.
    """

    id: str


@dataclass(frozen=True, slots=True)
class RestartChild:
    """Call: stop a child and start it anew, alone. Answers the new `Ref` once it has started.

    This is no crash, but a new start that fails is one: the call fails with what `init` raised,
    and the supervisor goes on as after any crash. Fails with `ChildNotFound`.
    """

    id: str


@dataclass(frozen=True, slots=True)
class WhichChildren:
    """Call: answers a tuple of `ChildInfo`, in the order of start."""
