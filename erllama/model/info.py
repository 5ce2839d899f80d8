"""The public description of a loaded model."""

from __future__ import annotations

import msgspec

from erllama.backend.base import Engine
from erllama.types import ModelInfo


def model_info(model_id: str, path: str, fingerprint: str, engine: Engine) -> ModelInfo:
    """`ModelInfo` from what the engine says of itself."""
    capabilities = engine.capabilities
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
        granule=capabilities.granule,
        **msgspec.structs.asdict(engine.info),
    )
