"""What may end the process is tried in a child, which leaves nothing behind."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from erllama import InvalidGrammar
from erllama.backend import trial as module
from erllama.backend.trial import Trial
from erllama.sampling.hazard import needs_trial
from erllama.sampling.plan import Grammar
from erllama.sampling.structure import check_structure
from tests.model.staging import PATIENCE_S
from tests.sampling.hostile import Choices, stage

DEADLY = Grammar("crash &&", "regex")
HARMLESS = Grammar("harmless", "regex")
LEAST = Grammar('{"const": -9223372036854775808}', "json_schema")


def nothing() -> None:
    pass


def children(trial: Trial) -> list[int]:
    """The process that it has, if any."""
    return [] if trial.pid is None else [trial.pid]


def gone(pid: int | None) -> bool:
    """Whether no such process is left, or soon will be."""
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience:
        status = pathlib.Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def trial() -> Iterator[Trial]:
    trial = Trial()
    yield trial
    trial.close()


@pytest.fixture
def stubborn() -> Iterator[Trial]:
    trial = Trial("tests.backend.stubborn_trial")
    yield trial
    trial.close()


def test_what_ends_the_child_is_refused_and_the_next_one_works(stubborn: Trial) -> None:
    trial = stubborn
    assert not children(trial)  # nobody pays for it before
    trial.check(HARMLESS, nothing)
    (pid,) = children(trial)
    for _ in range(2):
        with pytest.raises(InvalidGrammar, match=r"regex: .* ends the compiler"):
            trial.check(DEADLY, nothing)
        assert not children(trial)  # the second time it is known
    assert gone(pid)
    trial.check(HARMLESS, nothing)  # known as well
    assert not children(trial)
    trial.check(Grammar("a{3}", "regex"), nothing)
    assert children(trial) not in ([], [pid])


def test_what_the_compiler_survives_is_not_refused(trial: Trial) -> None:
    trial.check(Grammar('{"const": -9000000000000000001}', "json_schema"), nothing)
    trial.check(Grammar("(" * 100 + "a" + ")" * 100, "regex"), nothing)
    trial.check(Grammar("\udfff" * 3_000, "regex"), nothing)  # whoever compiles it tells


@pytest.mark.parametrize("what", ["compute", "allocate", "sleep"])
def test_a_child_that_takes_too_much_is_ended(
    what: str, stubborn: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn.check(Grammar("first"), nothing)
    pid = stubborn.pid
    if what == "sleep":
        monkeypatch.setattr(module, "_DEADLINE_S", 0.2)
    with pytest.raises(InvalidGrammar, match=r"grammar: .* too long or too much memory"):
        stubborn.check(Grammar(what), nothing)
    assert gone(pid)


def test_the_child_of_a_request_that_is_over_is_ended(stubborn: Trial) -> None:
    class Over(Exception):
        pass

    def pause() -> None:
        raise Over

    stubborn.check(Grammar("first"), nothing)
    pid = stubborn.pid
    with pytest.raises(Over):
        stubborn.check(Grammar("sleep"), pause)
    assert gone(pid)
    stubborn.check(Grammar("another"), nothing)


def test_closing_ends_the_child_also_while_somebody_waits_for_it(stubborn: Trial) -> None:
    stubborn.check(Grammar("first"), nothing)
    pid, waits, errors = stubborn.pid, threading.Event(), []

    def wait() -> None:
        try:
            stubborn.check(Grammar("sleep"), waits.set)
        except InvalidGrammar as error:
            errors.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert waits.wait(PATIENCE_S)
    stubborn.close()
    waiting.join(PATIENCE_S)
    assert gone(pid)
    assert "the runtime was stopped" in errors[0]
    with pytest.raises(InvalidGrammar, match="the runtime was stopped"):
        stubborn.check(Grammar("another"), nothing)


def test_a_child_does_not_outlive_its_parent() -> None:
    script = (
        "import os, signal\n"
        "from erllama.backend.trial import Trial\n"
        "from erllama.sampling.plan import Grammar\n"
        "trial = Trial('tests.backend.stubborn_trial')\n"
        "trial.check(Grammar('first'), lambda: None)\n"
        "print(trial.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert gone(int(done.stdout))


def test_without_child_processes_the_error_says_so(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", os.devnull)
    with pytest.raises(InvalidGrammar, match=r"regex: .* allow child processes"):
        trial.check(DEADLY, nothing)


ORDINARY = [
    Grammar(json.dumps({"type": "object", "properties": {f"p{n}": {"type": "string"}}}), kind)
    if kind == "json_schema"
    else Grammar("[a-z]{3,20}(-[0-9]{1,5}){2,8}( .*)?", kind)
    for n in range(3)
    for kind in ("json_schema", "regex")
] + [Grammar(json.dumps({"type": "integer", "minimum": 0, "maximum": 2**53 - 1}), "json_schema")]


@pytest.mark.parametrize("one", ORDINARY)
def test_ordinary_ones_are_not_tried(one: Grammar) -> None:
    assert not needs_trial(one)


@pytest.mark.parametrize(
    "one",
    [
        DEADLY,
        LEAST,
        Grammar('{"type": "integer", "enum": [-1e19]}', "json_schema"),
        Grammar(json.dumps({"enum": ["x" * 99] * 999}), "json_schema"),
        Grammar('{"items":' * 60 + "{}" + "}" * 60, "json_schema"),
        Grammar('{"pattern": "(a{200}){200}"}', "json_schema"),
        Grammar('{"minLength": 99999}', "json_schema"),
        Grammar('{"multipleOf": 9999}', "json_schema"),
        Grammar("((a{1,100}){1,100}){1,100}", "regex"),
        Grammar("(" * 100 + "a" + ")" * 100, "regex"),
        Grammar("a" * 3_000, "regex"),
        Grammar("a{99999999999999999999}", "regex"),
    ],
)
def test_extremes_are_tried(one: Grammar) -> None:
    assert needs_trial(one)


def survivors(trial: Trial, seeds: Iterator[int], seconds: float) -> tuple[int, int]:
    """Try random ones; returns how many went without trial, and how many did not survive theirs.

    Raises:
        InvalidGrammar: one would not have survived and would not have been tried.
    """
    plain, died, until = 0, 0, time.process_time() + seconds
    while time.process_time() < until:
        one = stage(Choices(next(seeds)))
        if one.kind == "grammar":
            continue
        try:
            trial.check(one, nothing)
        except InvalidGrammar:
            if not needs_trial(one):
                raise
            died += 1
        plain += not needs_trial(one)
    return plain, died


def test_what_is_not_tried_does_no_harm(trial: Trial) -> None:
    plain, _ = survivors(trial, iter(range(10**6)), 0.3)
    assert plain


@pytest.mark.long
@pytest.mark.timeout(1_500)
def test_what_is_not_tried_does_no_harm_at_length(trial: Trial) -> None:
    seed, until, plain, died = time.time_ns(), time.monotonic() + 660, 0, 0
    print(f"seed {seed}")
    seeds = iter(range(seed, seed + 10**9))
    while time.monotonic() < until:
        found = survivors(trial, seeds, 1.0)
        plain, died = plain + found[0], died + found[1]
    print(f"{plain} without trial, {died} refused by it")
    assert plain > 1_000


def test_random_grammars_are_read_or_refused() -> None:
    refused: list[int] = []
    until = time.process_time() + 0.5
    for one in (stage(Choices(seed)) for seed in range(10**6)):
        if time.process_time() > until and 0 < sum(refused) < len(refused):
            break
        if one.kind == "grammar":
            try:
                check_structure(one)
                refused.append(0)
            except InvalidGrammar:
                refused.append(1)
