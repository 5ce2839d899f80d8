"""`Supervisor`: starts children in order, restarts them when they end, stops them in reverse.

State:      the children in start order, each with its spec, its current `Ref`, a phase and marks;
            the times of recent restarts.
Writers:    the supervisor's own task.
Invariants: a child has at most one live incarnation, and each is a new object. No handler waits:
            starts and stops are begun, and `Down` and `_Started` tell how they went, so that the
            supervisor answers and can be stopped whatever its children do. No child outlives
            its supervisor.

A child's phase:

            ┌────────────── Down: crashed ───────────────┐
            v                                            │
    down ─ spawn ─> starting ─ init finished ─> running ─┤
      ^                │                           │     │ doomed
      └── init failed ─┴─── doomed ──> stopping <──┴─────┘
      └────────── Down ────────────────────┘
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from erllama.actor.actor import DEFERRED, Actor, kill, spawn
from erllama.actor.childspec import (
    ChildInfo,
    ChildSpec,
    ChildState,
    RestartChild,
    StartChild,
    StopChild,
    WhichChildren,
)
from erllama.actor.failures import ChildExists, ChildNotFound, RestartIntensityExceeded
from erllama.actor.intensity import Intensity
from erllama.actor.message import Down, ReplyTo
from erllama.actor.process import Process
from erllama.actor.ref import Ref
from erllama.actor.registry import Registry
from erllama.actor.strategy import (
    ChildView,
    Phase,
    Strategy,
    next_step,
    siblings_to_restart,
    wants_restart,
)
from erllama.errors import ActorDied, ConfigError


@dataclass(frozen=True, slots=True)
class _Started:
    """A child's `init` has finished."""

    ref_id: int


class _Child:
    __slots__ = (
        "doomed",
        "phase",
        "proven",
        "ref",
        "spec",
        "starters",
        "starts",
        "stoppers",
        "wanted",
    )

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.ref: Ref | None = None
        self.phase: Phase = "down"
        self.doomed = False
        self.wanted = True
        self.proven = False  # has been running once: a failed start is a crash from then on
        self.starts = 0
        self.starters: list[ReplyTo] = []
        self.stoppers: list[ReplyTo] = []

    def view(self) -> ChildView:
        return ChildView(self.spec.id, self.phase, self.doomed, self.wanted)

    def info(self) -> ChildInfo:
        children = () if self.ref is None else _children_of(self.ref)
        return ChildInfo(
            self.spec.id, self.ref, max(self.starts - 1, 0), self._shown_state(), children
        )

    def _shown_state(self) -> ChildState:
        if self.phase in ("running", "stopping"):
            return self.phase
        return "restarting" if self.proven else "starting"


class Supervisor(Actor):
    """Keeps its children running.

    Calls: `StartChild`, `StopChild`, `RestartChild`, `WhichChildren`.

    Args:
        specs: the children, in start order. A child may be a supervisor itself.
        strategy: when a child is restarted, "one_for_one" restarts it alone, "one_for_all" with
            all others, "rest_for_one" with those after it.
        intensity: restarts allowed within `period`; at one more the supervisor stops its children
            and ends with `RestartIntensityExceeded`. Children restarted along with a crashed one
            count as one restart with it; a restart whose `init` fails counts as another.
        period: in seconds.
        registry: where to register the children under their names, if anywhere.

    Raises:
        ConfigError: an id that is there twice, or a value that cannot be used.
    """

    terminate_timeout = math.inf  # each child's end is bounded by itself
    _always_terminate = True
    _patient_terminate = True

    def __init__(
        self,
        specs: Iterable[ChildSpec] = (),
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 3,
        period: float = 5.0,
        registry: Registry | None = None,
    ) -> None:
        if strategy not in get_args(Strategy):
            raise ConfigError(
                f"strategy must be one of {', '.join(get_args(Strategy))}, not {strategy!r}"
            )
        self._strategy: Strategy = strategy
        self._intensity = Intensity(intensity, period)
        self._registry = registry
        self._children: dict[str, _Child] = {}
        self._gave_up = False
        for spec in specs:
            if spec.id in self._children:
                raise ConfigError(f"two children have the id {spec.id!r}; ids must be unique")
            self._children[spec.id] = _Child(spec)

    def children(self) -> tuple[ChildInfo, ...]:
        """A snapshot of all children, in start order."""
        return tuple(child.info() for child in self._children.values())

    async def init(self) -> None:
        for child in self._children.values():
            ref = self._launch(child)
            await ref.wait_started()
            self._now_running(child)

    async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
        match payload:
            case WhichChildren():
                return self.children()
            case StartChild(spec):
                self._add(spec, reply)
            case StopChild(child_id):
                self._dismiss(self._child(child_id), reply)
            case RestartChild(child_id):
                self._renew(self._child(child_id), reply)
            case _:
                return await super().handle_call(payload, reply)
        self._advance()
        return DEFERRED

    async def handle_urgent(self, payload: Any) -> None:
        if not isinstance(payload, _Started):
            await super().handle_urgent(payload)
            return
        child = self._incarnation(payload.ref_id)
        if child is not None and child.phase == "starting":
            self._now_running(child)
            self._advance()

    async def handle_down(self, down: Down) -> None:
        child = self._incarnation(down.ref_id)
        if child is not None:
            self._ended(child, down.reason)
            self._advance()

    async def terminate(self, reason: object) -> None:
        """Stop all children: in reverse order, or at once if there is no time for that."""
        if reason != "killed":
            with contextlib.suppress(asyncio.CancelledError):
                for child in reversed(self._children.values()):
                    if child.ref is not None:
                        await child.ref.stop("shutdown", child.spec.shutdown)
                return
        refs = [child.ref for child in self._children.values() if child.ref is not None]
        for ref in refs:
            kill(ref)
        for ref in refs:
            await ref.wait_dead()

    def status_state(self) -> str:
        settled = all(child.phase == "running" for child in self._children.values())
        return "running" if settled else "restarting"

    # Orders

    def _add(self, spec: ChildSpec, reply: ReplyTo) -> None:
        if spec.id in self._children:
            raise ChildExists(
                f"supervisor {self.ref.name!r} has a child {spec.id!r} already"
                f" ({self._children[spec.id].info().state}); stop it first or choose another id"
            )
        child = self._children[spec.id] = _Child(spec)
        child.starters.append(reply)

    def _dismiss(self, child: _Child, reply: ReplyTo) -> None:
        child.stoppers.append(reply)
        child.wanted = False
        child.doomed = True
        if child.phase == "down":
            self._forget(child, "shutdown")

    def _renew(self, child: _Child, reply: ReplyTo) -> None:
        if not child.wanted:
            raise ChildNotFound(f"child {child.spec.id!r} is being stopped")
        child.starters.append(reply)
        child.doomed = child.phase != "down"

    # What happened to children

    def _now_running(self, child: _Child) -> None:
        child.phase = "running"
        child.proven = True
        if not child.doomed:
            for reply in child.starters:
                reply.send(child.ref)
            child.starters.clear()

    def _ended(self, child: _Child, reason: object) -> None:
        starting = child.phase == "starting"
        child.phase = "down"
        child.ref = None
        if child.doomed:
            child.doomed = False
            if not child.wanted:
                self._forget(child, reason)
        elif starting:
            self._start_failed(child, reason)
        else:
            self._exited(child, reason)

    def _start_failed(self, child: _Child, reason: object) -> None:
        if not child.proven:
            self._forget(child, reason)
            return
        self._fail_starters(child, reason)
        self._exited(child, reason)

    def _exited(self, child: _Child, reason: object) -> None:
        if not wants_restart(child.spec.restart, reason):
            self._forget(child, reason)
        elif self._intensity.allows(self.clock.now()):
            self.log.warning("child %r of %r ended: %r", child.spec.id, self.ref.name, reason)
            self._doom_siblings(child)
        else:
            self._give_up(child, reason)

    def _doom_siblings(self, crashed: _Child) -> None:
        for other in siblings_to_restart(self._strategy, [*self._children], crashed.spec.id):
            child = self._children[other]
            child.doomed = child.phase != "down"
            if child.spec.restart == "temporary":
                child.wanted = False

    def _give_up(self, child: _Child, reason: object) -> None:
        self._gave_up = True
        error = RestartIntensityExceeded(
            f"supervisor {self.ref.name!r} gave up: more than {self._intensity.limit} restarts"
            f" within {self._intensity.period:g} s, the last one of child {child.spec.id!r}"
            f" after {reason!r}"
        )
        if isinstance(reason, BaseException):
            error.__cause__ = reason
        self.stop_self(error)

    def _forget(self, child: _Child, reason: object) -> None:
        del self._children[child.spec.id]
        self._fail_starters(child, reason)
        for reply in child.stoppers:
            reply.send(None)

    def _fail_starters(self, child: _Child, reason: object) -> None:
        error: BaseException
        if isinstance(reason, Exception):
            error = reason
        else:
            error = ActorDied(
                f"child {child.spec.id!r} ended before it had started: {reason}", reason=reason
            )
        for reply in child.starters:
            reply.fail(error)
        child.starters.clear()

    # Steps

    def _advance(self) -> None:
        """Do what can be done now; the rest follows when a child has started or ended."""
        while not self._gave_up:
            step = next_step(self._strategy, [c.view() for c in self._children.values()])
            if step is None:
                return
            child = self._children[step.id]
            if step.kind == "stop":
                self._halt(child)
                continue
            try:
                self._launch(child)
            except Exception as error:
                self._start_failed(child, error)

    def _launch(self, child: _Child) -> Ref:
        """Build a new actor for a child that is down, and start it."""
        child.starts += 1
        name = child.spec.name or child.spec.id
        actor = child.spec.start()
        ref = spawn(
            actor, name=name, clock=self.clock, mailbox_capacity=child.spec.mailbox_capacity
        )
        if self._registry is not None:
            try:
                self._registry.register(name, ref)
            except Exception:
                kill(ref)
                raise
        child.ref = ref
        child.phase = "starting"
        self.watch(ref)
        ref.on_started(lambda: self.ref.urgent(_Started(ref.id)))
        return ref

    def _halt(self, child: _Child) -> None:
        child.phase = "stopping"
        if child.ref is not None:
            child.ref.request_stop("shutdown", child.spec.shutdown)

    # Lookups

    def _child(self, child_id: str) -> _Child:
        child = self._children.get(child_id)
        if child is None:
            known: Sequence[str] = [*self._children]
            raise ChildNotFound(
                f"supervisor {self.ref.name!r} has no child {child_id!r}; its children are:"
                f" {', '.join(known) or 'none'}"
            )
        return child

    def _incarnation(self, ref_id: int) -> _Child | None:
        """The child whose current incarnation this is; earlier ones are nobody's."""
        for child in self._children.values():
            if child.ref is not None and child.ref.id == ref_id:
                return child
        return None


def tree(ref: Ref) -> ChildInfo:
    """A snapshot of an actor and, if it is a supervisor, of all that is below it; no await."""
    state: ChildState
    match ref.status().state:
        case "starting" | "stopping" | "dead" as state:
            pass
        case _:
            state = "running"
    return ChildInfo(ref.name, ref, 0, state, _children_of(ref))


def _children_of(ref: Ref) -> tuple[ChildInfo, ...]:
    process = ref._control
    if isinstance(process, Process) and isinstance(process.actor, Supervisor):
        return process.actor.children()
    return ()
