"""`python -m benchmarks [NAME…] [--quick] [--rounds N] [--models A,B] …`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

from benchmarks.harness import Figure, Options, machine
from benchmarks.models import bench_model

NAMES = (
    "stream_rate",
    "first_token",
    "cancel_latency",
    "loop_delay",
    "import_time",
    "load_company",
    "cache_speed",
    "sampling",
    "grammar_company",
    "many_streams",
    "shared_prefix",
    "stall",
    "mixed_settings",
    "chat_turns",
    "soak",
    "plan_time",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the result is 1 if a target was missed, except in a quick run."""
    chosen = _parser().parse_args(arguments)
    models = chosen.models or ("tiny" if chosen.quick else "m125,bundled")
    options = Options(
        [bench_model(name) for name in models.split(",")],
        chosen.rounds,
        chosen.quick,
        not chosen.no_peers,
        chosen.soak_minutes,
    )
    started, facts = time.monotonic(), machine()
    _say(*(f"{key}: {value}" for key, value in facts.items()))
    figures = list(_measure(chosen.names or NAMES, options))
    report = {
        "machine": {**facts, "load_average_after": round(os.getloadavg()[0], 2)},
        "models": {model.name: model.path.name for model in options.models},
        "quick": options.quick,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "figures": [figure.as_json() for figure in figures],
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1) + "\n")
    missed = [figure.name for figure in figures if figure.met is False]
    _say("", f"{len(figures)} figures, {len(missed)} targets missed", *missed)
    return int(bool(missed) and not options.quick)


def _measure(names: Sequence[str], options: Options) -> Iterator[Figure]:
    for name in names:
        _say("", name)
        for figure in importlib.import_module(f"benchmarks.{name}").run(options):
            _say(f"  {figure}")
            yield figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", type=_name, help=f"of {', '.join(NAMES)}; or all")
    parser.add_argument("--quick", action="store_true", help="run all the code once, on tiny")
    parser.add_argument("--rounds", type=int, help="fresh sets of processes per line")
    parser.add_argument("--models", help="of m125, bundled, tiny, or paths; default m125,bundled")
    parser.add_argument("--no-peers", action="store_true", help="leave llama-server out")
    parser.add_argument("--soak-minutes", type=float, default=10.0, help="how long soak runs")
    parser.add_argument("--json", type=pathlib.Path, help="write the report here")
    return parser


def _name(text: str) -> str:
    if text not in NAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(NAMES)}")
    return text


def _say(*lines: str) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
