"""Each benchmark, on the least of work: that it measures, not what."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import pytest

from benchmarks.__main__ import NAMES, main
from benchmarks.sampling import SETTINGS

pytestmark = pytest.mark.timeout(600)  # a busy machine makes benchmarks slow, not wrong


FIGURES = {
    "stream_rate": [
        "tiny: stream()/plain loop, greedy",
        "tiny: stream()/plain loop, default",
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
        for phase in ("idle", "busy", "first", "load", "prefill", "decode")
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
        *(f"2,000: {name}" for name in SETTINGS),
        *(f"2,000: json grammar, {what}" for what in ("mean", "worst", "again")),
    ],
}


@pytest.fixture
def report_of(tmp_path: pathlib.Path) -> Any:
    """Runs a benchmark quickly; gives its report."""

    def run(name: str) -> Any:
        file = tmp_path / "report.json"
        assert main([name, "--quick", "--json", str(file)]) == 0
        return json.loads(file.read_text())

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
    greedy, default = report_of("stream_rate")["figures"]
    assert greedy["detail"]["same_tokens"] == "True"
    for figure in (greedy, default):
        assert figure["value"] > 0
        assert figure["detail"]["plain"] > 0
        assert figure["detail"]["erllama"] > 0


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


def test_an_unknown_benchmark_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "stream_rate" in capsys.readouterr().err
