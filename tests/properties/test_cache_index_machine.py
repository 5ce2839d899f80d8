"""The index against a model of it that is a list of rows and looks at every token."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from erllama.cache import CacheIndex, Hit, Lineage, Named, Query, Row, RowId, Tier
from erllama.cache.key import chain_key
from erllama.cache.row import Form
from erllama.cache.trie import TIERS
from tests.cache.support import BLOCK, ROOT, packed, query, row_meta

GRANULE = 64
SIZE = 10


@dataclasses.dataclass(eq=False)
class ModelRow:
    """A row as the model knows it: all tokens of its chain, and what it promises."""

    id: RowId
    context: list[int]
    start: int
    pure_end: int
    logits: bool
    whole: bool
    lineage: Lineage
    tiers: set[Tier]
    pins: int = 0

    @property
    def end(self) -> int:
        return len(self.context)

    @property
    def pure_tokens(self) -> int:
        if self.id.form == "snapshot":
            return 0
        if self.id.pure:
            return self.end - self.start
        return max((self.pure_end - self.start) // GRANULE * GRANULE, 0)

    def usable(self, pure: bool, threads: int) -> bool:
        """As a block used whole."""
        kind = self.id.pure or not pure
        return self.id.form != "snapshot" and kind and self.id.threads in (0, threads)

    def made_so(self, tokens: list[int], tag: bytes, threads: int) -> bool:
        """Whether the rows of these tokens are here, and of a lineage."""
        end = len(tokens)
        return (
            self.usable(False, threads)
            and self.start == (end - 1) // BLOCK * BLOCK
            and self.context[:end] == tokens
            and self.lineage.tag(end) == tag
        )


class Model:
    def __init__(self) -> None:
        self.rows: dict[RowId, ModelRow] = {}

    def covering(self, prompt: list[int], goal: int, pure: bool, threads: int) -> tuple[int, int]:
        """How far full blocks reach, and how far with what agrees after them."""
        covered = 0
        while covered + BLOCK <= goal and any(
            row.usable(pure, threads) and row.context == prompt[: covered + BLOCK]
            for row in self.rows.values()
        ):
            covered += BLOCK
        reach = covered
        for row in self.rows.values():
            if row.start == covered and row.context[:covered] == prompt[:covered]:
                agree = common(row.context[covered:], prompt[covered:goal])
                cut = min(agree, row.pure_tokens) // GRANULE * GRANULE
                mixed = not row.id.pure and row.usable(pure, threads)
                reach = max(reach, covered + cut, covered + agree if mixed else 0)
        return covered, reach

    def covers(self, prompt: list[int], goal: int, pure: bool, threads: int, logits: bool) -> bool:
        """Whether rows lead to `goal`, the last one ending there (with logits) or reaching it."""
        ending = any(
            row.usable(pure, threads) and row.context == prompt[:goal] and row.logits >= logits
            for row in self.rows.values()
        )
        before = (goal - 1) // BLOCK * BLOCK
        blocks, reach = self.covering(prompt, goal, pure, threads)
        return (ending and blocks >= before) or (not logits and reach == goal)

    def best(
        self, prompt: list[int], pure: bool, threads: int, snapshots: bool
    ) -> tuple[int, bool]:
        total = len(prompt)
        if not snapshots:
            if total and self.covers(prompt, total, pure, threads, logits=True):
                return total, True
            return (self.covering(prompt, total - 1, pure, threads)[1] if total else 0), False
        found = 0, False
        for row in self.rows.values():
            exact = row.end == total
            if (
                row.id.form == "snapshot"
                and row.context == prompt[: row.end]
                and row.id.threads in (0, threads)
                and (row.logits or not exact)
                and (not pure or (row.id.pure and (exact or row.end % GRANULE == 0)))
                and (row.whole or self.covers(prompt, row.end, pure, threads, logits=False))
            ):
                found = max(found, (row.end, exact))
        return found

    def resumes(self, prompt: list[int], asked: Query) -> bool:
        """Whether all rows of the reply that a query names are here."""
        named = asked.resume
        if named is None or named.tag is None or not 0 < named.end < len(prompt):
            return False
        tokens = prompt[: named.end]
        if chain_key(ROOT, tokens, BLOCK) != named.key or not named.tag:
            return False
        if not asked.snapshots:
            return self._chain_of(tokens, named.tag, asked.threads)
        return any(
            row.id.form == "snapshot"
            and row.context == tokens
            and row.id.threads in (0, asked.threads)
            and row.lineage.tag(named.end) == named.tag
            and (row.whole or self._chain_of(tokens, named.tag, asked.threads))
            for row in self.rows.values()
        )

    def _chain_of(self, tokens: list[int], tag: bytes, threads: int) -> bool:
        if not tokens:
            return True
        before = tokens[: (len(tokens) - 1) // BLOCK * BLOCK]
        return any(
            self._chain_of(before, row.lineage.origin, threads)
            for row in self.rows.values()
            if row.made_so(tokens, tag, threads) and (row.start == len(before))
        )

    def lookup(self, prompt: list[int], query: Query) -> tuple[int, bool, bool]:
        """Tokens, purity, exactness."""
        pure = self.best(prompt, True, query.threads, query.snapshots)
        mixed = self.best(prompt, False, query.threads, query.snapshots)
        if query.exact or pure[1] or pure[0] >= mixed[0]:
            return pure[0], True, pure[1]
        return mixed[0], False, mixed[1]


def common(one: list[int], other: list[int]) -> int:
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n


segment = st.tuples(st.integers(1, 2), st.sampled_from([1, 30, 63, 64, 128]))
contexts = st.lists(segment, min_size=1, max_size=5).map(
    lambda segments: [token for token, n in segments for _ in range(n)]
)
tiers = st.sampled_from(TIERS)
forms = st.sampled_from(["block", "block", "tail", "tail", "snapshot"])


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = CacheIndex()
        self.model = Model()
        self.now = 0.0
        self.pinned: list[Row] = []

    def real(self, row: ModelRow) -> Row:
        found = self.index.get(row.id)
        assert found is not None
        return found

    def pick(self, data: st.DataObject) -> ModelRow:
        ids = sorted(self.model.rows)
        return self.model.rows[data.draw(st.sampled_from(ids))]

    @rule(by=st.sampled_from([-5.0, 0.0, 1.0, 700.0]))
    def time_passes(self, by: float) -> None:
        self.now += by

    @rule(
        context=contexts,
        chain=st.booleans(),
        form=forms,
        mixed=st.none() | st.integers(0, 300),
        text=st.none() | st.tuples(st.integers(0, 90), st.integers(2, 90)),
        threads=st.sampled_from([0, 2, 4]),
        logits=st.booleans(),
        whole=st.booleans(),
        tier=tiers,
        hits=st.integers(0, 3),
    )
    def insert(
        self,
        context: list[int],
        chain: bool,
        form: Form,
        mixed: int | None,
        text: tuple[int, int] | None,
        threads: int,
        logits: bool,
        whole: bool,
        tier: Tier,
        hits: int,
    ) -> None:
        """One row, or a row with all blocks before it."""
        made = Lineage(pure_end=len(context) if mixed is None else mixed)
        if text is not None:
            reply_end = made.pure_end + text[0]
            made = made.behind(reply_end, reply_end + text[1])
        ends = [*range(BLOCK, len(context), BLOCK)] if chain else []
        for end in [*ends, len(context)]:
            last = end == len(context)
            kind: Form = form if last else "block"
            self._insert(
                context[:end],
                kind,
                made,
                threads,
                kind == "tail" or (kind == "snapshot" and logits),
                kind == "snapshot" and whole,
                tier,
                hits,
            )

    def _insert(
        self,
        context: list[int],
        form: Form,
        made: Lineage,
        threads: int,
        logits: bool,
        whole: bool,
        tier: Tier,
        hits: int,
    ) -> None:
        pure_end = min(made.pure_end, len(context))
        pure = pure_end == len(context)
        meta = row_meta(
            context,
            form=form,
            pure_end=pure_end,
            cuts=() if pure else made.cuts,
            threads=0 if pure and len(context) % GRANULE != 1 else threads,
            n_logits=50 if logits else 0,
            whole=whole,
        )
        row = self.index.insert(meta, SIZE, tier, now=self.now, hits=hits)
        assert row.id == meta.id
        known = self.model.rows.get(meta.id)
        if known is None:
            self.model.rows[meta.id] = ModelRow(
                meta.id, context, meta.start, pure_end, logits, whole, meta.lineage, {tier}
            )
        else:
            known.tiers.add(tier)

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data(), tier=tiers)
    def remove(self, data: st.DataObject, tier: Tier) -> None:
        row = self.pick(data)
        gone = self.index.remove(self.real(row), tier)
        assert gone == (row.tiers == {tier})
        self._gone(row, tier)

    def _gone(self, row: ModelRow, tier: Tier) -> None:
        row.tiers.discard(tier)
        if not row.tiers:
            del self.model.rows[row.id]

    @rule(tier=tiers)
    def lose(self, tier: Tier) -> None:
        lost = {row.id for row in self.index.lost(tier)}
        assert lost == {row.id for row in self.model.rows.values() if tier in row.tiers}
        for id_ in lost:
            self._gone(self.model.rows[id_], tier)

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        row = self.pick(data)
        real = self.real(row)
        self.index.pin([real])
        self.pinned.append(real)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        row = self.pinned.pop(data.draw(st.integers(0, len(self.pinned) - 1)))
        self.index.unpin([row])

    @rule(
        data=st.data(),
        prompt=contexts,
        exact=st.booleans(),
        snapshots=st.booleans(),
        threads=st.sampled_from([2, 4]),
        resume=st.booleans(),
    )
    def look(
        self,
        data: st.DataObject,
        prompt: list[int],
        exact: bool,
        snapshots: bool,
        threads: int,
        resume: bool,
    ) -> None:
        named = None
        if self.model.rows:
            if data.draw(st.booleans()):
                row = self.pick(data)
                cut = data.draw(st.sampled_from([0, 1, 2, 64]))
                prompt = row.context[: row.end - cut] + prompt[: data.draw(st.integers(0, 2))]
            if resume:
                one = self.pick(data)
                end = data.draw(st.integers(one.start + 1, one.end))
                key = chain_key(ROOT, one.context[:end], BLOCK)
                named = Named(key, end, one.lineage.tag(end))
        asked = query(prompt, exact=exact, snapshots=snapshots, threads=threads, resume=named)
        hit = self.index.lookup(asked)
        assert (hit is not None and hit.resumed) == self.model.resumes(prompt, asked)
        if hit is None:
            assert self.model.lookup(prompt, asked)[0] == 0
            return
        self.check_hit(hit, prompt, asked)
        if hit.resumed:
            assert named is not None
            assert hit.tokens == named.end
            assert hit.lineage is not None
            assert hit.lineage.tag(named.end) == named.tag
        else:
            assert (hit.tokens, hit.pure, hit.exact) == self.model.lookup(prompt, asked)
        self.index.touch(hit.all_rows, self.now)

    def check_hit(self, hit: Hit, prompt: list[int], asked: Query) -> None:
        """The rows are what the hit says they are."""
        position = 0
        for row, start, n in hit.parts():
            assert row.id in self.model.rows
            assert start == position == row.start
            assert 0 < n <= row.n_tokens
            assert row.form != "snapshot"
            assert row.tokens[: 4 * n] == packed(prompt[start : start + n])
            if hit.pure:
                assert n <= row.cut_pure
                assert hit.exact or (start + n) % GRANULE == 0
            position += n
        if hit.snapshot is not None:
            assert hit.snapshot.form == "snapshot"
            assert hit.snapshot.end == hit.tokens
            assert hit.rows or hit.snapshot.whole
            assert not hit.pure or hit.snapshot.pure
        if hit.snapshot is None or not hit.snapshot.whole:
            assert position == hit.tokens
        assert hit.exact == (hit.tokens == len(prompt))
        assert (hit.snapshot is not None) == asked.snapshots
        if hit.exact:
            assert hit.logits is not None
            assert hit.logits.has_logits
            assert hit.logits.end == len(prompt)

    # Eviction

    @rule(tier=tiers, n=st.integers(1, 60))
    def evict(self, tier: Tier, n: int) -> None:
        before = self.index.bytes(tier)
        scores = {id_: self.score(self.real(row)) for id_, row in self.model.rows.items()}
        victims = self.index.evict(tier, n)
        freed = 0
        for victim in victims:
            assert freed < n
            row = self.model.rows[victim.id]
            assert self.may_go(row, tier) is not False
            sure = [
                scores[other.id] for other in self.model.rows.values() if self.may_go(other, tier)
            ]
            assert scores[victim.id] <= min(sure, default=float("inf"))
            self._gone(row, tier)
            freed += SIZE
        assert self.index.bytes(tier) == before - freed
        if freed < min(n, before):
            assert not any(self.may_go(row, tier) for row in self.model.rows.values())

    def may_go(self, row: ModelRow, tier: Tier) -> bool | None:
        """None: it depends on nodes between two rows, which the model does not know of."""
        real = self.index.get(row.id)
        if real is not None and self.index.pinned(real):
            return False
        if tier not in row.tiers:
            return False
        if row.id.form == "snapshot" or len(row.tiers) > 1:
            return True
        builds = [
            other.start == row.end
            for other in self.model.rows.values()
            if other.start >= row.end and other.context[: row.end] == row.context
        ]
        return False if any(builds) else (None if builds else True)

    def score(self, row: Row) -> float:
        return self.index._orders["ram"].score(row)

    # Always

    @invariant()
    def same_rows(self) -> None:
        assert {row.id: set(row.tiers) for row in self.index} == {
            id_: row.tiers for id_, row in self.model.rows.items()
        }
        assert len(self.index) == len(self.model.rows)

    @invariant()
    def totals_agree(self) -> None:
        for tier in TIERS:
            n = sum(tier in row.tiers for row in self.model.rows.values())
            assert (self.index.count(tier), self.index.bytes(tier)) == (n, n * SIZE)

    @invariant()
    def nothing_is_kept_without_need(self) -> None:
        if not self.model.rows:
            assert self.index._nodes == {}


IndexMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestIndexMachine = IndexMachine.TestCase
