"""erllama: an asyncio runtime around llama.cpp.

async with erllama.load(erllama.bundled_model()) as model:
    print((await model.complete("Once upon a time", max_tokens=32)).text)
"""

from erllama.bundled import bundled_model
from erllama.cache.facade import Cache, RowInfo, VerifyReport
from erllama.cache.messages import Freed
from erllama.cache.policy import CachePolicy
from erllama.cache.shared_view import CacheCounters
from erllama.config import ContextConfig, ModelConfig, RuntimeConfig
from erllama.errors import (
    ActorDied,
    Busy,
    CacheError,
    CallTimeout,
    ConfigError,
    DecodeFailed,
    EngineCrashed,
    EngineError,
    EngineStuck,
    ErllamaError,
    InvalidGrammar,
    MailboxFull,
    ModelAlreadyLoaded,
    ModelLoadError,
    ModelNotFound,
    NotSupported,
    PromptTooLong,
    QueueFull,
    RequestError,
    RuntimeStopped,
    SessionBusy,
)
from erllama.model.handle import Model
from erllama.model.request import Request
from erllama.model.stream import Stream
from erllama.option_types import (
    DraftOptions,
    LoadOptions,
    RequestOptions,
    RuntimeOptions,
    SessionlessOptions,
)
from erllama.runtime import Runtime, load
from erllama.sampling.params import SamplingParams
from erllama.types import (
    ActorNode,
    Adapter,
    CacheUse,
    Completion,
    Done,
    Event,
    FinishReason,
    LaneInfo,
    ModelInfo,
    ModelStatus,
    Prefill,
    PrefillProgress,
    RuntimeStatus,
    Text,
    ThinkingDelta,
    ThinkingEnd,
    Timings,
    TokenLogprobs,
    ToolCallDelta,
    ToolCallEnd,
    Usage,
    Verified,
)

__version__ = "0.1.0"

__all__ = [
    "ActorDied",
    "ActorNode",
    "Adapter",
    "Busy",
    "Cache",
    "CacheCounters",
    "CacheError",
    "CachePolicy",
    "CacheUse",
    "CallTimeout",
    "Completion",
    "ConfigError",
    "ContextConfig",
    "DecodeFailed",
    "Done",
    "DraftOptions",
    "EngineCrashed",
    "EngineError",
    "EngineStuck",
    "ErllamaError",
    "Event",
    "FinishReason",
    "Freed",
    "InvalidGrammar",
    "LaneInfo",
    "LoadOptions",
    "MailboxFull",
    "Model",
    "ModelAlreadyLoaded",
    "ModelConfig",
    "ModelInfo",
    "ModelLoadError",
    "ModelNotFound",
    "ModelStatus",
    "NotSupported",
    "Prefill",
    "PrefillProgress",
    "PromptTooLong",
    "QueueFull",
    "Request",
    "RequestError",
    "RequestOptions",
    "RowInfo",
    "Runtime",
    "RuntimeConfig",
    "RuntimeOptions",
    "RuntimeStatus",
    "RuntimeStopped",
    "SamplingParams",
    "SessionBusy",
    "SessionlessOptions",
    "Stream",
    "Text",
    "ThinkingDelta",
    "ThinkingEnd",
    "Timings",
    "TokenLogprobs",
    "ToolCallDelta",
    "ToolCallEnd",
    "Usage",
    "Verified",
    "VerifyReport",
    "bundled_model",
    "load",
]
