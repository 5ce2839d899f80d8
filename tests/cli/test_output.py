from __future__ import annotations

import json

import pytest

from erllama.cli import progress
from erllama.cli.info import quantization
from erllama.cli.output import json_line, printable
from erllama.cli.progress import PlainLines


def test_printable_keeps_text_newlines_and_tabs_and_no_other_control() -> None:
    every = "".join(map(chr, range(0x100)))
    kept = printable(every)
    assert kept == "\t\n" + "".join(c for c in every[0x20:] if not 0x7F <= ord(c) < 0xA0)
    assert printable("naïve 你好 🙂") == "naïve 你好 🙂"


def test_a_json_line_is_one_line_without_control_characters() -> None:
    every = "".join(map(chr, range(0x100)))
    line = json_line({"text": every})
    assert json.loads(line)["text"] == every
    assert line.endswith("\n")
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in line[:-1])


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("llama 8B Q4_K - Medium", "Q4_K - Medium"),
        ("llama ?B all F32", "all F32"),
        ("", ""),
    ],
)
def test_quantization_is_what_follows_architecture_and_size(
    description: str, expected: str
) -> None:
    assert quantization(description) == expected


def test_plain_lines_say_the_work_and_each_further_quarter_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    lines = PlainLines()
    for share in (0.0, 0.1, 0.3, 0.3, 0.9, 1.0):
        lines.show("loading", share)
    lines.clear()
    lines.show("loading", 0.0)
    assert said == [
        "erllama: loading",
        "erllama: loading: 25 %",
        "erllama: loading: 75 %",
        "erllama: loading",
    ]
