"""The public description of a loaded model."""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama.backend.base import Engine, StateCapabilities
from erllama.config import ContextConfig
from erllama.model.markers import THINKING, TOOL_CALL, Markers
from erllama.types import ModelInfo


def model_info(
    model_id: str, path: str, fingerprint: str, engine: Engine, markers: Markers
) -> ModelInfo:
    """`ModelInfo` from what the engine says of itself."""
    capabilities = engine.capabilities
    facts = msgspec.structs.asdict(engine.info)
    del facts["begin_token"], facts["embeds_only"]
    return ModelInfo(
        id=model_id,
        path=path,
        fingerprint=fingerprint,
        family=capabilities.family,
        n_ctx=capabilities.n_ctx,
        n_seq_max=capabilities.n_seq_max,
        n_batch=capabilities.n_batch,
        can_generate=capabilities.generate,
        can_abort=capabilities.abort,
        can_embed=capabilities.embed is not None,
        pooling=None if capabilities.embed is None else capabilities.embed.pooling,
        granule=capabilities.granule,
        cached_as=_cached_as(capabilities.state),
        exact=capabilities.state is not None and capabilities.state.exact,
        thinking_markers=markers.texts(THINKING),
        tool_call_markers=markers.texts(TOOL_CALL),
        **facts,
    )


def threads_waiting(engine: Engine, context: ContextConfig) -> int:
    """Threads of the CPU that wait for each other; 0: a GPU computes, or nothing does."""
    can = engine.capabilities
    if (can.state is not None and can.state.devices) or not (can.generate or can.embed):
        return 0
    return max(engine.info.n_threads, context.n_threads_batch or 0)


def _cached_as(
    state: StateCapabilities | None,
) -> Literal["rows", "rows+snapshots", "snapshots", "none"]:
    if state is None:
        return "none"
    if not state.snapshot:
        return "rows"
    return "rows+snapshots" if state.layers else "snapshots"
