"""The peers of the benchmarks of several sequences."""

from __future__ import annotations

import pathlib

import pytest

from benchmarks import llama_build
from benchmarks.child import agent_prompts, longest_gap, random_prompt, stream_prompts
from benchmarks.harness import Side
from benchmarks.llama_server import Reply
from benchmarks.models import bench_model
from benchmarks.soak import jain


def test_the_plain_batch_loop_computes_what_the_plain_loop_does() -> None:
    config = {"path": str(bench_model("tiny").path)}
    with Side("tests.benchmarks.children:computing", config) as side:
        got = side.ask(prompt=random_prompt(150, 1, 512), count=12)
    assert len(got["plain"]) == 13
    assert got["batch"] == got["plain"]
    assert got["copied"] == got["plain"][0]


def test_agents_share_a_prefix_and_nothing_else() -> None:
    order = {"n": 3, "prefix": 40, "tail": 5, "seed": 7}
    prompts = agent_prompts(order, 512)
    assert [len(prompt) for prompt in prompts] == [45] * 3
    assert len({tuple(prompt[:40]) for prompt in prompts}) == 1
    assert len({tuple(prompt[40:]) for prompt in prompts}) == 3


def test_prompts_of_streams_differ() -> None:
    prompts = stream_prompts({"n": 3, "prompt": 20, "seed": 7}, 512)
    assert len({tuple(prompt) for prompt in prompts}) == 3


def test_a_gap_counts_if_it_overlaps_the_time_looked_at() -> None:
    times = [0.0, 5.0, 6.0, 8.0, 8.5, 12.0]
    assert longest_gap(times, 5.5, 8.2) == 2.0
    assert longest_gap(times, 4.0, 8.2) == 5.0
    assert longest_gap([], 1.0, 4.0) == 3.0


def test_the_index_of_fairness_is_one_for_equals_and_one_nth_for_a_winner() -> None:
    assert jain([3, 3, 3, 3]) == 1
    assert jain([0, 0, 0, 9]) == 0.25
    assert jain([0, 0]) == 1


def received(*pieces: bytes) -> Reply:
    reply = Reply(b"")
    for piece in pieces:
        reply.data_received(piece)
    return reply


def test_a_reply_in_pieces_is_read_as_its_events() -> None:
    reply = received(
        b"HTTP/1.1 200 OK\r\n\r\n2a\r\n",
        b'data: {"content":"a","stop":false}\n\n\r\n2a\r\ndata: {"content":"b",',
        b'"stop":false}\n\n\r\n',
        b'30\r\ndata: {"content":"","stop":true,"tokens_predicted":3}\n\n\r\n0\r\n\r\n',
    )
    assert [event["content"] for _, event in reply.events()] == ["a", "b", ""]
    assert reply.tokens == len(reply.token_times()) == 2
    assert sorted(reply.token_times()) == reply.token_times()
    at, tokens = reply.done()
    assert tokens == 3
    assert at > reply.token_times()[-1]


async def test_whoever_waits_for_tokens_is_woken_by_the_end_too() -> None:
    reply = received()
    reply.connection_lost(None)
    await reply.reach(5)
    await reply.end()
    assert reply.tokens == 0


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "erllama-benchmarks"


def test_a_server_without_cmake_is_refused_with_the_remedy(
    cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(llama_build.BuildFailed, match=r"install cmake .* --no-peers"):
        llama_build.server_program()
    assert not cache.exists()


def test_the_server_is_built_once(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []

    def build(_version: str, work: pathlib.Path, _log: pathlib.Path) -> pathlib.Path:
        builds.append(work)
        built = work / "built"
        built.write_text("a program")
        return built

    monkeypatch.setattr(llama_build, "_build", build)
    monkeypatch.setattr("shutil.which", lambda name: name)
    first = llama_build.server_program()
    assert first.read_text() == "a program"
    assert cache in first.parents
    assert llama_build.server_program() == first
    assert len(builds) == 1


def test_a_step_of_the_build_that_fails_is_reported_with_its_log(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "build.log"
    failing = ["sh", "-c", "echo no such compiler; exit 3"]
    with pytest.raises(llama_build.BuildFailed, match=r"(?s)returned 3.*no such compiler"):
        llama_build._call(failing, log)
