"""The sampling parameters of a request."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from erllama.checked import Checked
from erllama.errors import RequestError

MAX_SEED = 2**63 - 1


class SamplingParams(Checked, frozen=True, kw_only=True):
    """How each token is drawn.

    The filters apply in the order top_k, top_p, min_p, temperature; then one token is drawn. The
    random number of the draw depends on `seed` and the token's position only, so the same seed
    gives the same text however the request was scheduled.
    """

    error: ClassVar[type[Exception]] = RequestError

    temperature: Annotated[
        float, Meta(ge=0, le=100, description="Spread of the draw; 0 takes the likeliest token.")
    ] = 0.8
    top_k: Annotated[
        int, Meta(ge=0, le=2**31 - 1, description="Keep the k likeliest tokens; 0: all.")
    ] = 40
    top_p: Annotated[
        float,
        Meta(gt=0, le=1, description="Keep the likeliest tokens whose probabilities reach p."),
    ] = 0.95
    min_p: Annotated[
        float,
        Meta(ge=0, le=1, description="Drop tokens below this share of the likeliest one's."),
    ] = 0.05
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_SEED)] | None,
        Meta(description="Seed of all draws; None: a fresh one per request."),
    ] = None
