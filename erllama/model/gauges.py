"""What a model shows of itself without being asked: one writer, any reader."""

from __future__ import annotations

from erllama.model.scheduler import Pace
from erllama.types import Adapter, ModelInfo, ModelStatus, Phase


class Gauges:
    """Written by the model's actor (and the owner's progress), read through `snapshot`.

    Outlives the actor's incarnations, so that `status()` answers during a restart too.
    """

    def __init__(self, model_id: str) -> None:
        self.id = model_id
        self.phase: Phase = "loading"
        self.load_progress = 0.0
        self.active = 0
        self.pending = 0
        self.sessions = 0
        self.restarts = 0
        self.decode_rate = 0.0
        self.pace = Pace()
        self.request_s = 1.0
        self.step_since: float | None = None
        self.errand_since: float | None = None
        self.info: ModelInfo | None = None
        self.adapters: tuple[Adapter, ...] = ()
        self.adapters_ever = 0
        self._warnings: tuple[str, ...] = ()
        self._warned_until = 0.0

    def rest(self) -> None:
        """Nothing is computed and nothing waits: the actor has ended."""
        self.active = self.pending = self.sessions = 0
        self.step_since = self.errand_since = None
        self.load_progress = 0.0

    def note_request(self, seconds: float) -> None:
        """Keep a moving average of how long requests are computed."""
        self.request_s += 0.3 * (seconds - self.request_s)

    def warn(self, warnings: tuple[str, ...], *, until: float) -> None:
        """Show these in place of the earlier ones, until a time on the actor's clock."""
        self._warnings, self._warned_until = warnings, until

    def snapshot(self, now: float) -> ModelStatus:
        """A frozen copy; `now` on the actor's clock."""
        since = [one for one in (self.step_since, self.errand_since) if one is not None]
        return ModelStatus(
            id=self.id,
            phase=self.phase,
            load_progress=self.load_progress,
            active=self.active,
            pending=self.pending,
            sessions=self.sessions,
            restarts=self.restarts,
            decode_tokens_per_s=self.decode_rate,
            prefill_tokens_per_s=self.pace.prefill_rate,
            heartbeat_age_s=now - min(since, default=now),
            warnings=self._warnings if now < self._warned_until else (),
        )
