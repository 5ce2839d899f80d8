"""What the scheduler takes to plan a step for 256 requests that hold sequences.

Half of them generate, half wait with prompts of all lengths, in all classes of priority, some with
deadlines. Steps that generate and slices of prompts take turns; what is planned is carried out in
no time. Pure Python: the model does not matter.
"""

from __future__ import annotations

import random
import time
from typing import Any

from benchmarks.child import Config, Orders
from benchmarks.harness import Figure, Options, Side, Target, percentile

NAME = "plan_time"
TARGET = Target("below", 0.5)
REQUESTS = 256


def run(options: Options) -> list[Figure]:
    plans = options.times(20_000, 200)
    with Side(f"{__name__}:scheduler_side", {"requests": REQUESTS}) as child:
        child.ask(plans=plans // 10, seed=0)
        turns = [child.ask(plans=plans, seed=seed) for seed in range(1, options.rounds_or(3) + 1)]
    detail: dict[str, Any] = {
        "p50": percentile([turn["p50"] for turn in turns], 50),
        "worst": max(turn["worst"] for turn in turns),
        "decode_steps": sum(turn["decodes"] for turn in turns),
        "slices": sum(turn["slices"] for turn in turns),
    }
    p99 = percentile([turn["p99"] for turn in turns], 50)
    return [Figure(NAME, f"p99, plan for {REQUESTS} requests", p99, "ms", TARGET, detail)]


def scheduler_side(orders: Orders, config: Config) -> None:
    """Child: times plans."""
    orders.answer({})
    for order in orders:
        orders.answer(_time_plans(config["requests"], order["plans"], random.Random(order["seed"])))


def _time_plans(requests: int, plans: int, source: random.Random) -> dict[str, Any]:
    from erllama.model.scheduler import Decode, Pace, Scheduler

    entries = [_entry(seq, source) for seq in range(requests)]
    pace = Pace(prefill_rate=400.0, decode_s=0.03)
    scheduler = Scheduler(n_batch=512, granule=64, stall_s=0.1, pace=pace)
    milliseconds: list[float] = []
    decodes = 0
    for now in range(plans):
        started = time.perf_counter()
        plan = scheduler.plan(entries, now=float(now))
        milliseconds.append((time.perf_counter() - started) * 1e3)
        assert plan is not None
        scheduler.took(plan, entries, 0.03)
        decodes += isinstance(plan, Decode)
    return {
        "p50": percentile(milliseconds, 50),
        "p99": percentile(milliseconds, 99),
        "worst": max(milliseconds),
        "decodes": decodes,
        "slices": plans - decodes,
    }


def _entry(seq: int, source: random.Random) -> Any:
    from erllama.model.scheduler import Entry

    return Entry(
        seq=seq,
        order=seq,
        priority=source.choice(("low", "normal", "high")),
        left=source.randrange(1, 4_000) if seq % 2 else 0,
        deadline=source.uniform(0, 1e6) if source.random() < 0.2 else None,
    )
