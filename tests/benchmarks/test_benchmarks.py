"""Each benchmark, on the least of work: that it measures, not what."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
from typing import Any

import pytest

from benchmarks.__main__ import NAMES, main
from benchmarks.loop_delay import BARE
from benchmarks.sampling import SETTINGS, STRUCTURES

pytestmark = pytest.mark.timeout(600)  # a busy machine makes benchmarks slow, not wrong


CORES = len(os.sched_getaffinity(0))

FIGURES = {
    "stream_rate": [
        f"tiny: {what}, {sampling}{where}"
        for sampling in ("greedy", "default")
        for what, where in (
            ("stream()/plain loop", ""),
            ("stream()/handed loop", ""),
            ("handed/plain loop", ""),
            *([("stream()/plain loop", ", a core to spare")] if CORES > 1 else []),
        )
    ],
    "first_token": [
        "tiny: stream() - plain loop, 16 tokens",
        "tiny: stream() - plain loop, 100 tokens",
    ],
    "cancel_latency": [
        "tiny: p99, cancel to idle",
        "tiny: p99, cancel to next first token",
    ],
    "loop_delay": [
        f"tiny: {phase}, {what} lateness"
        for phase in ("idle", "busy", *BARE, "first", "load", "prefill", "decode")
        for what in ("p99", "worst")
    ],
    "import_time": ["import erllama", "imports of erllama that loaded llama_cpp"],
    "load_company": ["tiny: stream beside loading/alone"],
    "cache_speed": [
        *(
            f"tiny, {tier}: {what}"
            for tier in ("ram", "ram_file", "disk")
            for what in (
                "first token, same prompt",
                *(() if tier == "ram" else ("first token, same prompt, new process",)),
                "with 16 more, beside restore and their prefill",
                "restore rate/memcpy",
                "finish save on the lane, per 100 MB of state",
            )
        ),
        "tiny, LlamaRAMCache: first token, same prompt",
        "tiny, LlamaDiskCache: first token, same prompt",
        "tiny: continued saves, share of the lane's time",
        "tiny: ten turns, bytes stored/one copy of the context",
        "tiny: fifty conversations, copies of their system prompt",
        "lookup of 30,000 tokens among 2,000 rows",
        "index memory a row, beside its tokens",
    ],
    "sampling": [
        *(f"2,000: {name}{how}" for name in SETTINGS for how in ("", ", cold")),
        *(
            f"2,000: {name}, {what}"
            for name in STRUCTURES
            for what in ("mean", "worst", "again", "preparing")
        ),
    ],
    "grammar_company": [
        "tiny: longest gap, beside refused grammars/alone",
        "tiny: longest gap, beside followed grammars/alone",
    ],
    "many_streams": [
        f"tiny: {count} streams, erllama/{loop} loop"
        for count in (1, 4, 8)
        for loop in ("plain", *(["staggered"] if count > 1 else []))
    ],
    "shared_prefix": [
        "tiny: 8 agents, time, erllama/plain loop",
        "tiny: 8 agents, time, erllama/staggered loop",
    ],
    "stall": [
        "tiny: longest gap, erllama/bound",
        "tiny: longest gap, erllama/longest slice of the rule and a step",
        "tiny: the prompt's first token, beside a stream/alone",
    ],
    "mixed_settings": ["tiny: 8 streams, mixed/greedy settings"],
    "chat_turns": [
        "tiny: first token, last third/first",
        "tiny: the same, beside a chat in place",
        "tiny: last third, without cache/with",
    ],
    "soak": [
        "tiny: errors",
        "tiny: leaked sequences",
        "tiny: memory, last third/first",
        "tiny: Jain index of equals",
        "tiny: p99, first token",
        "tiny: p99, gap",
    ],
    "plan_time": ["p99, plan for 256 requests"],
}


@pytest.fixture(scope="module")
def report_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a benchmark quickly, once; gives its report, and what it printed as `printed`."""
    folder = tmp_path_factory.mktemp("reports")

    @functools.cache
    def run(name: str) -> Any:
        file = folder / f"{name}.json"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main([name, "--quick", "--no-peers", "--json", str(file)]) == 0
        return {**json.loads(file.read_text()), "printed": printed.getvalue()}

    return run


def test_every_benchmark_has_a_smoke_test() -> None:
    assert tuple(FIGURES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_reports_its_figures(name: str, report_of: Any) -> None:
    report = report_of(name)
    assert report["quick"] is True
    assert report["machine"]["cores"] >= 1
    assert [figure["name"] for figure in report["figures"]] == FIGURES[name]
    for figure in report["figures"]:
        assert figure["benchmark"] == name
        assert math.isfinite(figure["value"])
        assert (figure["met"] is None) == (figure["target"] is None)


def test_the_rates_are_of_the_same_tokens(report_of: Any) -> None:
    figures = report_of("stream_rate")["figures"]
    for figure in figures:
        greedy = "greedy" in figure["name"]
        assert figure["detail"].get("same_tokens") == ("True" if greedy else None)
    assert all(figure["value"] > 0 for figure in figures)


def test_importing_erllama_loads_no_native_library(report_of: Any) -> None:
    time, native = report_of("import_time")["figures"]
    assert time["value"] > 0
    assert native["value"] == 0


def test_a_second_model_is_loaded_beside_the_stream(report_of: Any) -> None:
    (figure,) = report_of("load_company")["figures"]
    assert figure["detail"]["loads"] >= 1


def test_what_conversations_share_is_stored_once(report_of: Any) -> None:
    figures = {figure["name"]: figure for figure in report_of("cache_speed")["figures"]}
    assert 1 <= figures["tiny: ten turns, bytes stored/one copy of the context"]["value"] < 2
    assert figures["tiny: fifty conversations, copies of their system prompt"]["value"] == 1


def test_a_lone_stream_has_the_tokens_of_the_plain_batch_loop(report_of: Any) -> None:
    one, *_ = report_of("many_streams")["figures"]
    assert one["detail"]["same_tokens"] == "1 of 1"


def test_the_stream_of_the_stall_goes_on_until_the_prompts_first_token(report_of: Any) -> None:
    gap, *_ = report_of("stall")["figures"]
    assert gap["detail"]["ended_early"] == 0
    assert gap["detail"]["erllama_ms"] > 0


def test_a_soak_cancels_requests_loses_no_sequence_and_sees_no_error(report_of: Any) -> None:
    errors, leaked, *_ = report_of("soak")["figures"]
    assert errors["value"] == 0, errors["detail"]["kinds"]
    assert leaked["value"] == 0
    assert errors["detail"]["finished"] > 0
    assert errors["detail"]["cancelled"] > 0


def test_a_peer_that_is_not_wanted_is_left_out_and_said_to_be(report_of: Any) -> None:
    report = report_of("shared_prefix")
    assert all("server_s" not in figure["detail"] for figure in report["figures"])
    assert "llama-server: not built" in report["printed"]


def test_an_unknown_benchmark_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "stream_rate" in capsys.readouterr().err
