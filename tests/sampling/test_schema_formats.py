"""What is written under a `format` is of it; formats that cannot be followed are annotations."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import re

import pytest

from erllama.sampling import Grammar
from erllama.sampling.guided import Guide
from erllama.sampling.schema_formats import FORMATS
from tests.sampling.taking import string, taker
from tests.sampling.walking import END, TOKENS, walked

LONG_HOST = ".".join(["a" * 63] * 3)

CASES: dict[str, tuple[list[str], list[str]]] = {
    "date": (
        ["2024-02-29", "2000-02-29", "1999-12-31", "0001-01-01"],
        ["2023-02-29", "1900-02-29", "2100-02-29", "2024-02-30", "2024-04-31", "2024-13-01"],
    ),
    "time": (
        [
            *("12:00:59Z", "23:59:60Z", "23:59:60.5z", "23:59:60-00:00", "01:29:60+01:30"),
            *("15:59:60-08:00", "00:44:60+00:45", "00:00:00.123+23:59"),
        ],
        ["12:00:60Z", "12:30:60+01:00", "23:59:60+01:00", "24:00:00Z", "12:00:00", "1:00:00Z"],
    ),
    "date-time": (
        [
            *("2024-02-29t00:00:00z", "1998-12-31T23:59:60Z", "1998-12-31T15:59:60.123-08:00"),
            *("1999-01-01T00:59:60+01:00", "2015-07-01T05:29:60+05:30"),
        ],
        [
            *("2023-02-29T00:00:00Z", "1998-12-31T22:59:60Z", "1998-12-30T23:59:60Z"),
            *("1999-01-01T23:59:60Z", "2024-01-01 00:00:00Z"),
        ],
    ),
    "duration": (
        ["P1Y2M3DT4H5M6S", "P3W", "PT0S", "P1D", "PT1M"],
        ["P", "PT", "P1Y3D", "PT1H3S", "P1W1D", "P1DT", "1D"],
    ),
    "email": (
        [f"{'a' * 64}@example.com", "a.b+c@x-y.org", "a@localhost"],
        [f"{'a' * 65}@example.com", ".a@b.c", "a.@b.c", "a..b@c", "a@", "a@b_c", "a@-b"],
    ),
    "hostname": (
        ["a", "3com", "www.example.co.uk", "a-b.c", f"{LONG_HOST}.{'b' * 61}"],
        [
            f"{LONG_HOST}.{'b' * 62}",
            f"{LONG_HOST}.{'b' * 63}",
            "-a",
            "a-",
            "a.",
            "a" * 64,
            "1.2.3.4",
        ],
    ),
    "ipv4": (["0.0.0.0", "255.255.255.255"], ["256.1.1.1", "01.2.3.4", "1.2.3", "1.2.3.4.5"]),
    "ipv6": (
        ["::", "::1", "1::", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1::8"],
        ["1:2:3:4:5:6:7:8:9", ":1", "1:2:3", "::1::2", "12345::", "fe80::1%eth0", "::1.2.3"],
    ),
    "uuid": (
        ["2EB8AA08-AA98-11ea-b4aa-73b441d16380"],
        ["2eb8aa08-aa98-11ea-b4aa-73b441d1638", "2eb8aa08aa9811eab4aa73b441d16380"],
    ),
    "uri": (
        ["http://u@a.b:80/c?d#e", "urn:x:y", "mailto:a@b", "http://[::1]/", "a:", "file:///x"],
        ["//a/b", "/a", "", "http://a b", "http://ä.de", "http://[1::", "x:%zz", "1a:b", 'x:"'],
    ),
    "uri-reference": (
        ["", "/a", "//a/b", "a/b", "#x", "?q", "http://a"],
        ["a b", "\\a", "%z", "1:b"],
    ),
    "iri": (["http://ä.de/ü?名#é"], ["/ä", "http://a b"]),
    "iri-reference": (["/ä", "", "ü"], ["ä b", "\\"]),
    "uri-template": (
        ["http://x/{id}", "{?a,b*}", "{+p:3}/x", ""],
        ["{", "{}", "}", "a{b", "{a:0}"],
    ),
    "json-pointer": (["", "/a/b~0~1", "/", "/é"], ["a", "/~", "/~2"]),
    "relative-json-pointer": (["0", "1/a", "0#", "12/"], ["01", "-1", "/a", "0##", ""]),
}
ANNOTATIONS = ("idn-email", "idn-hostname", "regex")


def test_all_formats_of_the_specification_are_followed_or_annotations() -> None:
    assert set(CASES) == set(FORMATS)
    assert not set(FORMATS) & set(ANNOTATIONS)


@pytest.mark.parametrize("name", CASES)
def test_a_format_takes_what_is_of_it_and_nothing_else(name: str) -> None:
    good, bad = CASES[name]
    takes = taker({"type": "string", "format": name})
    assert [text for text in good if not takes(string(text))] == []
    assert [text for text in bad if takes(string(text))] == []


def texts(name: str, count: int) -> list[str]:
    guide = Guide(TOKENS)
    stage = Grammar(json.dumps({"type": "string", "format": name, "maxLength": 60}), "json_schema")
    compiled = guide.compiled(stage)
    return [
        json.loads(walked(guide.constraint(stage, compiled, [END]), TOKENS, END, seed))
        for seed in range(count)
    ]


def test_what_is_written_is_what_other_programs_take() -> None:
    for text in texts("date", 12):
        datetime.date.fromisoformat(text)
    for text in texts("ipv4", 12):
        ipaddress.IPv4Address(text)
    for text in texts("ipv6", 30):
        ipaddress.IPv6Address(text)
    for text in texts("time", 12):
        usual = re.sub(r"\.\d+", "", text.upper()).replace(":60", ":59")
        datetime.time.fromisoformat(usual)


def test_every_day_of_some_years_is_a_date_and_no_other() -> None:
    expression = re.compile(FORMATS["date"].patterns[0])
    source = random.Random(3)
    for year in (1899, 1900, 1999, 2000, 2023, 2024, 2100, source.randrange(1, 10_000)):
        for month in range(14):
            for day in range(33):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date.fromisoformat(text)
                    real = True
                except ValueError:
                    real = False
                assert bool(expression.search(text)) == real, text


def test_a_leap_second_is_a_minute_before_midnight_in_utc() -> None:
    expression = re.compile(FORMATS["time"].patterns[0])
    for minutes in range(0, 24 * 60, 105):
        for sign in (1, -1):
            offset = f"{'+' if sign > 0 else '-'}{minutes // 60:02}:{minutes % 60:02}"
            found = [
                f"{at // 60:02}:{at % 60:02}"
                for at in range(24 * 60)
                if expression.search(f"{at // 60:02}:{at % 60:02}:60{offset}")
            ]
            local = (23 * 60 + 59 + sign * minutes) % (24 * 60)
            usual = minutes % 60 in (0, 30, 45)
            assert found == ([f"{local // 60:02}:{local % 60:02}"] if usual else []), offset


def test_a_format_holds_beside_what_else_is_said() -> None:
    takes = taker({"type": "string", "format": "email", "pattern": "^b", "maxLength": 6})
    assert takes('"b@c.de"')
    assert not takes('"a@c.de"')
    assert not takes('"b@cc.de"')
    host = taker({"allOf": [{"format": "hostname"}, {"pattern": r"^\w+$"}], "type": "string"})
    assert host('"abc"')
    assert not host('"a.b"')


def test_a_format_limits_texts_alone() -> None:
    takes = taker({"format": "date"})
    assert takes("3")
    assert takes("[null]")
    assert takes('"2024-02-29"')
    assert not takes('"2023-02-29"')
    for kind in ("integer", ["integer", "null"]):
        assert taker({"type": kind, "format": "date"})("17")


@pytest.mark.parametrize("name", [*ANNOTATIONS, "int64", "password", "my-own"])
def test_other_formats_limit_nothing(name: str) -> None:
    takes = taker({"format": name})
    assert takes('"any text"')
    assert takes("3")
