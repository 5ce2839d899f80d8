"""Every error erllama raises.

ErllamaError
├── ConfigError(ValueError)           a bad option: named, with the accepted values
├── ModelLoadError                    file missing, not GGUF, truncated, unsupported: says which
├── ModelNotFound(KeyError), ModelAlreadyLoaded
├── RequestError(ValueError)          ├── PromptTooLong ├── InvalidGrammar
├── Busy                              ├── MailboxFull   ├── QueueFull(retry_after)  ├── SessionBusy
├── EngineError                       ├── EngineCrashed ├── DecodeFailed ├── EngineStuck
├── NotSupported                      this model or backend cannot do that
├── ActorDied, CallTimeout
├── CacheError                        of the cache's own calls; never raised to a request
└── RuntimeStopped                    the runtime is not running
"""

from __future__ import annotations


class ErllamaError(Exception):
    """Base of every error that erllama raises on purpose."""


class ConfigError(ErllamaError, ValueError):
    """A configuration option has a value that cannot be used."""


class ModelLoadError(ErllamaError):
    """A model file could not be loaded; the message says why and what to do."""


class ModelNotFound(ErllamaError, KeyError):
    """No model of this id is loaded."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return Exception.__str__(self)


class ModelAlreadyLoaded(ErllamaError):
    """Another loaded model has this id."""


class RequestError(ErllamaError, ValueError):
    """A request cannot be carried out as asked; nothing else is affected."""


class PromptTooLong(RequestError):
    """The prompt does not fit the context."""


class InvalidGrammar(RequestError):
    """The grammar, regular expression or JSON schema of a request cannot be used.

    Attributes:
        line, column: where in a text, from 1 on.
        path: where in a schema, as a JSON pointer; "" is all of it, None: it is no schema.
    """

    def __init__(
        self,
        reason: str,
        *,
        text: str = "",
        at: int = 0,
        field: str = "grammar",
        path: str | None = None,
    ) -> None:
        self.path = path
        before = text[:at]
        self.line = before.count("\n") + 1
        self.column = at - (before.rfind("\n") + 1) + 1
        rest = text[at : at + 20].split("\n")[0]
        place = (
            f"line {self.line}, column {self.column}"
            if path is None
            else f"at {path or 'its root'}"
        )
        super().__init__(f"{field}: {place}: {reason}" + (f" (at `{rest}`)" if rest else ""))


class Busy(ErllamaError):
    """Not now: too much work is waiting already."""


class MailboxFull(Busy):
    """The bounded work lane of an actor's mailbox is full."""


class QueueFull(Busy):
    """The model's request queue is full.

    Attributes:
        retry_after: seconds after which a new attempt is likely to be taken.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SessionBusy(Busy):
    """Another request of this session is running."""


class EngineError(ErllamaError):
    """The engine behind a model failed."""


class EngineCrashed(EngineError):
    """The model's engine went down while it held this request; the model is loaded again."""


class DecodeFailed(EngineError):
    """The engine refused to compute a batch."""


class EngineStuck(EngineError):
    """The engine does not come back from a native call and does not obey its abort flag."""


class NotSupported(ErllamaError):
    """This model or backend cannot do that."""


class ActorDied(ErllamaError):
    """The actor ended before it answered.

    Attributes:
        reason: the exit reason of the actor: an exception, or a word such as "normal".
    """

    def __init__(self, message: str, *, reason: object = None) -> None:
        super().__init__(message)
        self.reason = reason


class CallTimeout(ErllamaError, TimeoutError):
    """An actor did not answer in time."""


class CacheError(ErllamaError):
    """The cache cannot do that now. A request never gets it: a bad row is a miss, and counted."""


class RuntimeStopped(ErllamaError):
    """The runtime was not started, or was stopped."""
