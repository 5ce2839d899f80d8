"""What a model's actor does about the KV cache: restoring before a request, saving during it.

Contract
    State     the saves that are on their way (`_saving`): out of the sequence on the lane
              (`_taking`), then into the arbiter's hands. `_saves` shows them to who waits.
    Writer    the model's actor, whose messages end up in the methods here.
    Order     a save is queued on the lane before the step that follows it, so it sees the state
              as it was; nobody waits for it but a request that could use its rows.
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

from erllama.backend.base import Buffer, Engine, Frame, SavedState
from erllama.backend.workers import Workers
from erllama.cache.actor_refs import CacheActors
from erllama.cache.lineage import UNTOLD, Lineage
from erllama.cache.messages import Bad, NewRow, Promote
from erllama.cache.policy import (
    Reason,
    continued_due,
    snapshot_positions,
    snapshot_spacing,
    what_to_save,
)
from erllama.cache.query import Hit, Named
from erllama.cache.reader import Unreadable
from erllama.cache.shared_view import CacheView
from erllama.cache.trie import TIERS
from erllama.clock import Clock
from erllama.config import GRANULE
from erllama.model.caching import ModelCache
from erllama.model.errands import Errands
from erllama.model.faults import note
from erllama.model.generation import Generation, Restored
from erllama.model.job import Job
from erllama.model.messages import (
    Kept,
    RestoreDone,
    RowsRead,
    SaveDone,
    Saving,
    WaitedEnough,
)
from erllama.model.resume import Cut, join_key
from erllama.model.saves import Saves
from erllama.model.scope import Scope
from erllama.model.slicing import common_prefix

_HOT = 2  # uses after which a row of a file is kept in memory too
_SHARED_RUNNING = 2 * GRANULE  # tokens that are worth waiting for while they are computed,
_SHARED_SAVING = 32  # and once they are being saved


class CacheWork:
    """See the module.

    Args:
        urgent: sends a message to the actor itself.
        spawn: runs a background task of the actor; its end arrives with the tag.
    """

    def __init__(
        self,
        *,
        view: CacheView,
        actors: CacheActors,
        cache: ModelCache,
        errands: Errands,
        engine: Engine,
        readers: Workers,
        clock: Clock,
        urgent: Callable[[object], bool],
        spawn: Callable[[Coroutine[Any, Any, Any], object], asyncio.Task[Any]],
    ) -> None:
        self._view = view
        self._actors = actors
        self.cache = cache
        self._errands = errands
        self._engine = engine
        self._readers = readers
        self._clock = clock
        self._urgent = urgent
        self._spawn = spawn
        self._saving: dict[int, Saving] = {}
        self._taking: dict[int, tuple[Saving, asyncio.Future[SavedState | None]]] = {}
        self._saves = Saves(view.pending, spawn)
        self._numbers = 0
        self._kept = 0
        state = engine.capabilities.state
        self._spacing = (
            snapshot_spacing(
                cache.policy,
                snapshot_bytes=state.snapshot_bytes,
                token_bytes=state.token_bytes,
            )
            if state is not None and state.snapshot
            else 0
        )

    @property
    def saving(self) -> Collection[int]:
        """The numbers of the saves whose rows are on their way into the cache."""
        return self._saving.keys()

    # Before a request

    def must_wait(self, job: Job, running: Iterable[Job]) -> bool:
        """Whether rows that this request could use are being computed or saved just now.

        The wait for a save ends by `Kept` or by `WaitedEnough`, that for a prompt with the
        request whose prompt it is (`Job.waits_for`).
        """
        job.waits_for = None
        if job.tokens is None or job.spilled is not None or not self.cache.enabled:
            return False
        job.waits_for = next((other for other in running if self._will_have(job, other)), None)
        if job.waits_for is not None:
            self._wait_is_over(job)
            return True
        limit = self.cache.policy.session_resume_wait_ms / 1e3
        least = 1 if job.names is not None else _SHARED_SAVING
        saving = [one for one in self._saving.values() if one.scope == job.scope]
        if limit <= 0 or not any(
            self._gain(job, one.tokens, len(one.tokens), one.lineage.pure_end, -one.number) >= least
            for one in saving
        ):
            self._wait_is_over(job)
            return False
        if "saved" not in job.timers and not job.waited:
            job.timers["saved"] = self._clock.call_later(
                limit, lambda: self._urgent(WaitedEnough(job))
            )
        return not job.waited

    @staticmethod
    def _wait_is_over(job: Job) -> None:
        """What it waited for was saved; another save may be waited for as long again."""
        job.stop_timer("saved")
        job.waited = False

    def _will_have(self, job: Job, other: Job) -> bool:
        """Whether a prompt that is being computed begins like this one, as far as is new."""
        generation, prompt = other.generation, other.tokens
        computes = generation is None or generation.prefilling  # None: once its rows are restored
        if prompt is None or not computes or other.scope != job.scope:
            return False
        policy = self.cache.policy
        saved = min(len(prompt), policy.cold_max_tokens or len(prompt))
        if saved < max(policy.cold_min_tokens, policy.min_tokens):
            return False
        if generation is not None:
            pure_end = generation.pure_end
        else:  # its rows may turn out to be those behind a reply
            pure_end = 0 if other.names is not None else len(prompt)
        return self._gain(job, prompt, saved, pure_end, other.order) >= _SHARED_RUNNING

    def _gain(
        self, job: Job, coming: array.array[int], saved: int, pure_end: int, name: int
    ) -> int:
        """How many tokens rows of `coming`, up to `saved`, will spare beyond those in the cache.

        Args:
            pure_end: up to where those rows are pure.
            name: of `coming`, so that the two are compared once and not at every turn.
        """
        tokens = job.tokens or array.array("i")
        common = job.shares.get(name)
        if common is None:
            common = job.shares[name] = common_prefix(coming, tokens)
        common = self._usable(job, min(common, saved), pure_end)
        return common - self._known(job, tokens) if common > 0 else 0

    def _usable(self, job: Job, common: int, pure_end: int) -> int:
        """How many of the tokens that a prompt has in common with rows it may take from them."""
        total, named = len(job.tokens or ()), job.names
        if named is not None and named.end <= common and not self.exact(job):
            return min(named.end or common, total - 1)
        if not self.cache.exact or common == total <= pure_end:  # the latter with its logits
            return min(common, total - 1)
        common = min(common, pure_end, total - 1)
        return common - common % GRANULE

    def _known(self, job: Job, tokens: array.array[int]) -> int:
        """How many tokens of a prompt the cache has; looked up again when rows were added."""
        if job.known is None or job.known[0] != self._kept:
            hit = self.cache.find(tokens, scope=job.scope, exact=self.exact(job), resume=job.names)
            job.known = self._kept, 0 if hit is None else hit.tokens
        return job.known[1]

    def find(self, job: Job, *, bare: bool = False) -> Hit | None:
        """What the cache has of a prompt.

        Args:
            bare: of the reply that it names only the first token was sampled, and none computed.
        """
        tokens = job.tokens
        if tokens is None or not self.cache.enabled:
            return None
        if job.verify_from is not None:
            tokens = tokens[: job.verify_from]
        return self.cache.find(
            tokens, scope=job.scope, exact=self.exact(job), resume=job.names, sampled=bare
        )

    def goes_on(self, job: Job, named: Named, cut: Cut) -> bool:
        """Whether a request goes on in the reply that was cut so, behind the rows of this name."""
        tokens = job.tokens
        if tokens is None or not job.goes_on_in(cut):
            return False
        # its last token was computed only if the step that did so had to be given up
        return named.key in (self.cache.key(part, job.scope) for part in (tokens[:-1], tokens))

    def exact(self, job: Job) -> bool:
        """Whether only rows that a cold run would make are good enough."""
        return job.request.exact or self._engine.capabilities.deterministic

    def restore(self, job: Job, hit: Hit | None, prefill_rate: float) -> bool:
        """Begin to restore what was found; False: it is nothing, or not worth it."""
        if not self.cache.enabled:
            return False
        if hit is None or (not hit.resumed and not self.cache.worth(hit, prefill_rate)):
            self.cache.count("misses")
            return False
        index, entry = self._view.index, job.entry
        if entry is None:
            return False
        reader = self.cache.take(hit, self._clock.now())

        def read() -> Frame:
            frame = self._engine.frame(entry.seq, hit.tokens)
            reader.fill(frame)
            return frame

        tag = RowsRead(job, entry, hit, reader, self._clock.now())
        reading = self._spawn(self._readers.run(read), tag)
        # however it ends: with the actor too, which then serves no message about it
        reading.add_done_callback(lambda _: index.unpin(hit.all_rows))
        return True

    def rows_read(
        self, tag: RowsRead, frame: Frame | None, error: BaseException | None, *, wanted: bool
    ) -> bool:
        """The rows of a hit were read, or not; False: the request goes on without them."""
        if frame is None or error is not None:
            self._unreadable(error)
            return False
        if not wanted:
            return True
        start = Restored(
            tokens=tag.hit.tokens,
            lineage=_lineage(tag.hit) if self.cache.exact else UNTOLD,
            logits=tag.reader.logits if tag.hit.exact else None,
            resumed=tag.hit.resumed,
            tier=max(tag.reader.tiers, key=TIERS.index, default=None),
            seconds=self._clock.now() - tag.since,
        )
        hot = tuple(
            row
            for row in tag.hit.all_rows
            if row.hits >= _HOT and "ram" in self.cache.policy.tiers and "ram" not in row.tiers
        )
        if hot:
            self._actors.tell_arbiter(Promote(hot))
        kind = "resume" if tag.hit.resumed else "exact" if tag.hit.exact else "partial"
        self.cache.count(f"hits_{kind}")
        self.cache.count("restored_bytes", tag.reader.n_bytes)
        self.cache.count("restore_total_ns", int(start.seconds * 1e9))
        self._errands.run(
            "a restore",
            lambda engine: engine.restore(tag.entry.seq, frame),
            lambda _, wrong: self._urgent(RestoreDone(tag.job, tag.entry, start, wrong)),
        )
        return True

    def _unreadable(self, error: BaseException | None) -> None:
        self.cache.count("misses")
        if isinstance(error, Unreadable):
            self._actors.tell_arbiter(Bad(error.row, error.tier, missing=error.missing))
        elif error is not None and not isinstance(error, asyncio.CancelledError):
            note("rows could not be made ready, the prompt is computed instead", error)

    def stops(self, job: Job, start: Restored) -> list[int]:
        """Where a prompt's slices must end, because a snapshot is wanted there."""
        tokens = job.tokens
        if not self._spacing or not self.cache.enabled or tokens is None:
            return []
        return snapshot_positions(start.tokens, len(tokens), self._spacing)

    # During a request

    def after_step(self, job: Job, generation: Generation, logits: Buffer | None) -> None:
        """Save what a step has made worth saving."""
        if not self.cache.enabled:
            return
        if generation.position <= len(generation.prompt) and not generation.tokens[1:]:
            self._save(job, generation, "cold", logits)
        elif continued_due(
            self.cache.policy,
            computed=generation.position,
            prompt=len(generation.prompt),
            saved_at=generation.saved_at,
        ):
            generation.saved_at = generation.position
            self._save(job, generation, "continued", None)

    def at_end(self, job: Job, generation: Generation, reason: Reason) -> None:
        """Save what a request leaves, however it ended."""
        if not self.cache.enabled or not generation.position or generation.keep_end is not None:
            return
        self._save(job, generation, reason, None)
        cut = generation.cut
        kept = generation.stored >= generation.position >= self.cache.policy.min_tokens
        if kept or (cut is not None and cut.ruled):
            named = self.cache.name(
                generation.computed_tokens, job.scope, self._lineage(generation)
            )
            generation.finish_key = join_key(named, cut)

    async def hand_over(self) -> None:
        """Wait until what was being saved is in the arbiter's hands: the model is ending.

        Its actor hears of nothing any more, so what the lane took out is handed on here. What the
        arbiter had been offered already, it has by now.
        """
        for saving, taken in list(self._taking.values()):
            saved = await taken
            if saved is not None:
                await self.cache.offer(self._rows(saving, saved), saving.reason)
            self._saves.end(saving.number)

    async def save_last(self, job: Job, generation: Generation) -> None:
        """Save what an interrupted request has computed, and wait for it: the model is ending.

        Of a model whose state cannot be cut, nothing: its state may be a step further by now.
        """
        if not self.cache.enabled or self.cache.snapshots:
            return
        made = self._to_save(job, generation, "shutdown", None)
        if made is None:
            return
        saving, _ = made
        done: asyncio.Future[SavedState | None] = asyncio.get_running_loop().create_future()
        ranges = [(span.start, span.end) for span in saving.spans]

        def then(saved: SavedState | None, _error: BaseException | None) -> None:
            if not done.done():
                done.set_result(saved)

        self._saves.begin(saving.number)
        seq = generation.seq
        self._errands.run("a save", lambda engine: engine.save(seq, ranges, snapshot=False), then)
        saved = await done
        if saved is not None:
            await self.cache.offer(self._rows(saving, saved), saving.reason)
        self._saves.end(saving.number)

    def _save(
        self, job: Job, generation: Generation, reason: Reason, logits: Buffer | None
    ) -> None:
        made = self._to_save(job, generation, reason, logits)
        if made is not None:
            saving, snapshot = made
            self._saving[saving.number] = saving
            self._saves.begin(saving.number)
            self._queue(saving, generation.seq, snapshot=snapshot)

    def _to_save(
        self, job: Job, generation: Generation, reason: Reason, logits: Buffer | None
    ) -> tuple[Saving, bool] | None:
        """What there is to save now, and whether with a snapshot; None: nothing."""
        computed, prompt = generation.position, len(generation.prompt)
        if generation.keep_end is not None:
            # what lies behind was computed for somebody's guess
            if self.cache.snapshots and computed > generation.keep_end:
                return None
            reason = "finish" if computed > generation.keep_end else "continued"
            computed = min(computed, generation.keep_end)
            computed -= computed % GRANULE
            if computed <= generation.stored:
                return None
        snapshot = self.cache.snapshots and self._snapshot_due(generation, reason)
        spans = what_to_save(
            self.cache.policy,
            # beside a snapshot of a reply its rows to the last one, or it could not be used
            "finish" if snapshot and reason == "continued" else reason,
            computed=computed,
            prompt=prompt,
            pure_end=generation.pure_end if self.cache.exact else 0,
            stored=generation.stored,
            has_logits=logits is not None,
        )
        if not spans and not snapshot:
            return None
        end = spans[-1].end if spans else 0
        stored = computed if snapshot and not self._engine_has_rows else end
        if not self._engine_has_rows:
            spans = []
        self._numbers += 1
        saving = Saving(
            number=self._numbers,
            tokens=array.array("i", generation.computed_tokens[: computed if snapshot else end]),
            spans=tuple(spans),
            lineage=self._lineage(generation),
            scope=job.scope,
            reason=reason,
            logits=logits,
        )
        generation.created += max(stored - generation.stored, 0)
        generation.stored = max(generation.stored, stored)
        if snapshot and reason != "continued":  # of which there may be none: see `_queue`
            generation.snapshot_at = computed
        return saving, snapshot

    def _lineage(self, generation: Generation) -> Lineage:
        """What makes the rows of a request; where nothing is exact, none is told from another."""
        return generation.lineage if self.cache.exact else UNTOLD

    @property
    def _engine_has_rows(self) -> bool:
        state = self._engine.capabilities.state
        return state is not None and bool(state.layers)

    def _snapshot_due(self, generation: Generation, reason: Reason) -> bool:
        """Whether a state that cannot be cut is to be kept whole at this length."""
        if generation.position < self.cache.policy.min_tokens:
            return False
        if generation.snapshot_at >= generation.position:
            return False
        at_end = generation.position == len(generation.prompt)
        return reason != "cold" or at_end or generation.position in generation.stops

    def _queue(self, saving: Saving, seq: int, *, snapshot: bool) -> None:
        ranges = [(span.start, span.end) for span in saving.spans]
        # The lane may be some tokens ahead of what a reply turned out to be: they are in vain once
        # it is over, and till then there is no snapshot without them.
        end = len(saving.tokens) if snapshot else None
        over = saving.reason in ("finish", "evict")

        taken: asyncio.Future[SavedState | None] = asyncio.get_running_loop().create_future()
        self._taking[saving.number] = (saving, taken)

        def work(engine: Engine) -> SavedState:
            return engine.save(seq, ranges, snapshot=snapshot, end=end, drop=over)

        def then(saved: SavedState | None, wrong: BaseException | None) -> None:
            if not taken.done():
                taken.set_result(saved)
            self._urgent(SaveDone(saving, saved, wrong))

        self._errands.run("a save", work, then)

    def save_done(
        self, saving: Saving, saved: SavedState | None, error: BaseException | None
    ) -> None:
        """Rows were taken out of the sequence: hand them over."""
        if saved is None:
            if error is not None:
                note("rows could not be saved", error)
            self.kept(saving.number)
            self.cache.count("saves_dropped", max(len(saving.spans), 1))
            return
        rows = self._rows(saving, saved)
        self._spawn(self.cache.offer(rows, saving.reason), Kept(saving.number))

    def _rows(self, saving: Saving, saved: SavedState) -> tuple[NewRow, ...]:
        return self.cache.rows(
            saving.tokens,
            saving.spans,
            saved,
            scope=saving.scope,
            lineage=saving.lineage,
            logits=saving.logits,
        )

    def kept(self, number: int) -> None:
        """The arbiter has the rows, or has refused them."""
        self._kept += 1
        self._saving.pop(number, None)
        self._taking.pop(number, None)
        self._saves.end(number)

    # For those who wait for saves

    def once_saved(
        self, tokens: array.array[int], scope: Scope, then: Callable[[], object], *, behind: int = 0
    ) -> None:
        """Call `then` when what was computed of a prompt before now is in the cache, or lost.

        Args:
            behind: tokens of it that need not be waited for.
        """
        coming = [one for one in self._saving.values() if one.scope == scope]
        news = [one.number for one in coming if common_prefix(one.tokens, tokens) > behind]
        self._saves.once_over(news, then)

    def warm(self, tokens: array.array[int], scope: Scope) -> int:
        """How many tokens of a prompt the cache has."""
        hit = self.cache.find(tokens, scope=scope, exact=False, resume=None)
        return 0 if hit is None else hit.tokens

    def give_up(self) -> None:
        """The lane does not come back: nobody shall wait for what it has not taken out."""
        for number, (_, taken) in self._taking.items():
            if not taken.done():
                self._saves.end(number)

    def rest(self) -> None:
        """The actor has ended: what was not handed over never will be."""
        self._saves.end_all()


def _lineage(hit: Hit) -> Lineage:
    """What made the restored state, where it matters: of a reply's rows."""
    return hit.lineage or Lineage(pure_end=hit.tokens)
