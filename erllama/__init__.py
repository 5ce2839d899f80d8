"""erllama: an asyncio runtime around llama.cpp.

async with erllama.load(erllama.bundled_model()) as model:
    print((await model.complete("Once upon a time", max_tokens=32)).text)
"""

from erllama.bundled import bundled_model
from erllama.config import ContextConfig, ModelConfig, RuntimeConfig
from erllama.errors import (
    ActorDied,
    Busy,
    CallTimeout,
    ConfigError,
    DecodeFailed,
    EngineCrashed,
    EngineError,
    EngineStuck,
    ErllamaError,
    MailboxFull,
    ModelAlreadyLoaded,
    ModelLoadError,
    ModelNotFound,
    NotSupported,
    PromptTooLong,
    QueueFull,
    RequestError,
    RuntimeStopped,
)
from erllama.model.handle import Model
from erllama.model.request import Request
from erllama.model.stream import Stream
from erllama.runtime import Runtime, load
from erllama.sampling.params import SamplingParams
from erllama.types import (
    ActorNode,
    Completion,
    Done,
    Event,
    FinishReason,
    LaneInfo,
    ModelInfo,
    ModelStatus,
    PrefillProgress,
    RuntimeStatus,
    Text,
    Timings,
    Usage,
)

__version__ = "0.1.0"

__all__ = [
    "ActorDied",
    "ActorNode",
    "Busy",
    "CallTimeout",
    "Completion",
    "ConfigError",
    "ContextConfig",
    "DecodeFailed",
    "Done",
    "EngineCrashed",
    "EngineError",
    "EngineStuck",
    "ErllamaError",
    "Event",
    "FinishReason",
    "LaneInfo",
    "MailboxFull",
    "Model",
    "ModelAlreadyLoaded",
    "ModelConfig",
    "ModelInfo",
    "ModelLoadError",
    "ModelNotFound",
    "ModelStatus",
    "NotSupported",
    "PrefillProgress",
    "PromptTooLong",
    "QueueFull",
    "Request",
    "RequestError",
    "Runtime",
    "RuntimeConfig",
    "RuntimeStatus",
    "RuntimeStopped",
    "SamplingParams",
    "Stream",
    "Text",
    "Timings",
    "Usage",
    "bundled_model",
    "load",
]
