"""The actor kernel: mailboxes, actors, state machines, supervisors. It knows nothing of models."""

from erllama.actor.actor import DEFERRED, Actor, kill, spawn, start
from erllama.actor.childspec import (
    ChildInfo,
    ChildSpec,
    RestartChild,
    StartChild,
    StopChild,
    WhichChildren,
)
from erllama.actor.failures import (
    ChildExists,
    ChildNotFound,
    NameTaken,
    RestartIntensityExceeded,
    StuckActor,
)
from erllama.actor.mailbox import Mailbox
from erllama.actor.message import (
    Call,
    Cast,
    Down,
    Message,
    ReplyTo,
    StateTimeout,
    StatusRequest,
    Stop,
    TaskDone,
    Urgent,
)
from erllama.actor.ref import ActorStatus, Ref, Watch
from erllama.actor.registry import Registry
from erllama.actor.statemachine import POSTPONE, Event, StateMachine
from erllama.actor.supervisor import Supervisor, tree

__all__ = [
    "DEFERRED",
    "POSTPONE",
    "Actor",
    "ActorStatus",
    "Call",
    "Cast",
    "ChildExists",
    "ChildInfo",
    "ChildNotFound",
    "ChildSpec",
    "Down",
    "Event",
    "Mailbox",
    "Message",
    "NameTaken",
    "Ref",
    "Registry",
    "ReplyTo",
    "RestartChild",
    "RestartIntensityExceeded",
    "StartChild",
    "StateMachine",
    "StateTimeout",
    "StatusRequest",
    "Stop",
    "StopChild",
    "StuckActor",
    "Supervisor",
    "TaskDone",
    "Urgent",
    "Watch",
    "WhichChildren",
    "kill",
    "spawn",
    "start",
    "tree",
]
