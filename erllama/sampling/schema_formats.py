r"""The values of `format` (JSON Schema 2020-12, validation 7.3) as regular expressions. Pure.

What an expression matches is always of the format. Some of what is of the format, it does not
match: a host name ends in a label that begins or ends with a letter and has no two hyphens beside
each other, a mail address has neither a quoted part nor an address in brackets, and a leap second
has an offset of whole hours, or of 30 or 45 minutes more.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """What a text of a format matches, all at once, and the most characters that it has."""

    patterns: tuple[str, ...]
    longest: int | None = None


def _either(*parts: str) -> str:
    return f"(?:{'|'.join(parts)})"


# RFC 3339

_YEAR = _either("[0-9]{3}[1-9]", "[0-9]{2}[1-9][0-9]", "[0-9][1-9][0-9]{2}", "[1-9][0-9]{3}")
_BY_FOUR = _either("0[48]", "[2468][048]", "[13579][26]")
_LEAP_YEAR = _either(f"[0-9]{{2}}{_BY_FOUR}", f"{_BY_FOUR}00")
_DAY = _either(
    "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])",
    "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)",
    "02-(?:0[1-9]|1[0-9]|2[0-8])",
)
_DATE = _either(f"{_YEAR}-{_DAY}", f"{_LEAP_YEAR}-02-29")
_HOUR = "(?:[01][0-9]|2[0-3])"
_MINUTE = "[0-5][0-9]"
_FRACTION = r"(?:\.[0-9]+)?"
_TIME = rf"{_HOUR}:{_MINUTE}:{_MINUTE}{_FRACTION}(?:[Zz]|[+-]{_HOUR}:{_MINUTE})"


def _leap(sign: int) -> str:
    """23:59:60 in UTC, as clocks show it that are behind it (-1) or before it (1)."""
    shown = []
    for offset in (hours * 60 + more for hours in range(24) for more in (0, 30, 45)):
        if offset:
            local = (23 * 60 + 59 + sign * offset) % (24 * 60)
            clock, zone = divmod(local, 60), divmod(offset, 60)
            sign_text = r"\+" if sign > 0 else "-"
            shown.append(
                f"{clock[0]:02}:{clock[1]:02}:60{_FRACTION}{sign_text}{zone[0]:02}:{zone[1]:02}"
            )
    return _either(*shown)


_LEAP_IN_UTC = rf"23:59:60{_FRACTION}(?:[Zz]|[+-]00:00)"
_LEAP_BEHIND, _LEAP_BEFORE = _leap(-1), _leap(1)
_DATE_TIME = _either(
    f"{_DATE}[Tt]{_TIME}",
    f"{_YEAR}-(?:06-30|12-31)[Tt]{_either(_LEAP_IN_UTC, _LEAP_BEHIND)}",
    f"{_YEAR}-(?:07-01|01-01)[Tt]{_LEAP_BEFORE}",
)
_ANY_TIME = _either(_TIME, _LEAP_IN_UTC, _LEAP_BEHIND, _LEAP_BEFORE)


def _duration() -> str:
    """RFC 3339, appendix A."""
    second = "[0-9]+S"
    minute = f"[0-9]+M(?:{second})?"
    clock = f"T{_either(f'[0-9]+H(?:{minute})?', minute, second)}"
    month = "[0-9]+M(?:[0-9]+D)?"
    date = _either("[0-9]+D", month, f"[0-9]+Y(?:{month})?")
    return f"P{_either(f'{date}(?:{clock})?', clock, '[0-9]+W')}"


# RFC 1123 and 5321

_LABEL = "(?:[a-zA-Z0-9]{1,63}|[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,31})"
_LAST_LABEL = _either(
    "[a-zA-Z][a-zA-Z0-9]{0,62}",
    "[a-zA-Z](?:-?[a-zA-Z0-9]){0,31}",
    "[0-9](?:-?[a-zA-Z0-9]){0,30}[a-zA-Z]",
)
_HOST = rf"(?:{_LABEL}\.)*{_LAST_LABEL}"
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_MAIL = rf"{_ATOM}(?:\.{_ATOM})*@{_HOST}"

# RFC 4291 and 3986

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"


def _ipv6() -> str:
    group = "[0-9a-fA-F]{1,4}"
    last = _either(f"{group}:{group}", _IPV4)
    shapes = [f"(?:{group}:){{6}}{last}"]
    for behind in range(5, -1, -1):  # groups behind the `::`, before the last two
        most = 5 - behind
        before = f"(?:(?:{group}:){{0,{most - 1}}}{group})?" if most else ""
        shapes.append(f"{before}::(?:{group}:){{{behind}}}{last}")
    shapes.append(f"(?:(?:{group}:){{0,5}}{group})?::{group}")
    shapes.append(f"(?:(?:{group}:){{0,6}}{group})?::")
    return _either(*shapes)


_PRIVATE = r"\x{E000}-\x{F8FF}\x{F0000}-\x{FFFFD}\x{100000}-\x{10FFFD}"
_BEYOND_ASCII = r"\x{A0}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}" + "".join(
    rf"\x{{{plane:X}{'1000' if plane == 0xE else '0000'}}}-\x{{{plane:X}FFFD}}"
    for plane in range(1, 0xF)
)


def _resource(*, international: bool, relative: bool) -> str:
    """A URI (RFC 3986) or an IRI (RFC 3987), or a reference to one."""
    more = _BEYOND_ASCII if international else ""
    private = _PRIVATE if international else ""
    safe = rf"a-zA-Z0-9._~!$&'()*+,;=\-{more}"
    escape = "%[0-9a-fA-F]{2}"
    char = f"(?:[{safe}:@]|{escape})"
    host = _either(
        rf"\[(?:{_ipv6()}|v[0-9a-fA-F]+\.[a-zA-Z0-9._~!$&'()*+,;=:\-]+)\]",
        f"(?:[{safe}]|{escape})*",
    )
    authority = f"(?:(?:[{safe}:]|{escape})*@)?{host}(?::[0-9]*)?"
    segments = f"(?:/{char}*)*"
    absolute = f"/(?:{char}+{segments})?"
    behind = rf"(?:\?(?:{char}|[/?{private}])*)?(?:#(?:{char}|[/?])*)?"
    hierarchy = _either(f"//{authority}{segments}", absolute, f"{char}+{segments}", "")
    whole = f"[a-zA-Z][a-zA-Z0-9+.-]*:{hierarchy}{behind}"
    if not relative:
        return whole
    first = f"(?:[{safe}@]|{escape})+"
    return _either(
        whole, f"{_either(f'//{authority}{segments}', absolute, f'{first}{segments}', '')}{behind}"
    )


def _template() -> str:
    """RFC 6570."""
    literal = (
        r"[!#$&(-;=?-\[\]_a-z~" + _BEYOND_ASCII + _PRIVATE + "]"  # no ' " % < > \ ^ ` { | }
    )
    char = "(?:[a-zA-Z0-9_]|%[0-9a-fA-F]{2})"
    variable = rf"{char}(?:\.?{char})*(?:\*|:[1-9][0-9]{{0,3}})?"
    expression = rf"\{{[+#./;?&]?{variable}(?:,{variable})*\}}"
    return f"(?:{literal}|%[0-9a-fA-F]{{2}}|{expression})*"


_POINTER = "(?:/(?:[^/~]|~[01])*)*"
_UUID = "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"


def _format(expression: str, *more: str, longest: int | None = None) -> Format:
    return Format(tuple(f"^(?:{one})$" for one in (expression, *more)), longest)


FORMATS: dict[str, Format] = {
    "date-time": _format(_DATE_TIME),
    "date": _format(_DATE),
    "time": _format(_ANY_TIME),
    "duration": _format(_duration()),
    "email": _format(_MAIL, "[^@]{1,64}@[^@]{1,253}", longest=254),
    "hostname": _format(_HOST, longest=253),
    "ipv4": _format(_IPV4),
    "ipv6": _format(_ipv6()),
    "uri": _format(_resource(international=False, relative=False)),
    "uri-reference": _format(_resource(international=False, relative=True)),
    "iri": _format(_resource(international=True, relative=False)),
    "iri-reference": _format(_resource(international=True, relative=True)),
    "uuid": _format(_UUID),
    "uri-template": _format(_template()),
    "json-pointer": _format(_POINTER),
    "relative-json-pointer": _format(f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})"),
}
"""Of the specification's, all but `idn-email`, `idn-hostname` and `regex`."""
