"""`erllama cache`: what lies in a cache folder, without any model."""

from __future__ import annotations

import msgspec

from erllama.cache.facade import Cache, RowInfo
from erllama.cli.interrupts import FAILED
from erllama.cli.opening import cache_folder
from erllama.cli.output import Output, json_line
from erllama.errors import ConfigError
from erllama.runtime import Runtime


async def list_rows(folder: str | None, *, json: bool) -> int:
    """Print every row, those that were used most first; returns the exit code."""
    async with _open(folder, read_only=True) as runtime:
        rows = sorted(runtime.cache.rows(), key=lambda row: (-row.hits, row.age_s))
        output = Output()
        if json:
            for row in rows:
                await output.write(json_line(msgspec.to_builtins(row)))
            return 0
        await output.write(_table(rows))
        counters = runtime.cache.counters()
        await output.write(f"{len(rows)} rows, {counters.disk_bytes:,} bytes\n")
        return 0


async def verify_rows(folder: str | None, *, json: bool) -> int:
    """Read every row back; returns the exit code, 1 if one was bad."""
    async with _open(folder, read_only=False) as runtime:
        found_bad = runtime.cache.counters().corrupt_rows
        report = await runtime.cache.verify()
    output = Output()
    bad = report.bad + found_bad
    if json:
        await output.write(json_line({"checked": report.checked, "bad": bad}))
    else:
        await output.write(f"{report.checked} rows checked, {bad} bad and moved aside\n")
    return FAILED if bad else 0


async def collect_rows(folder: str | None, *, json: bool) -> int:
    """Remove rows that nothing can reach; returns the exit code."""
    async with _open(folder, read_only=False) as runtime:
        freed = await _collected(runtime.cache)
    output = Output()
    if json:
        await output.write(json_line({"rows": freed[0], "bytes": freed[1]}))
    else:
        await output.write(f"{freed[0]} rows removed, {freed[1]:,} bytes\n")
    return 0


async def _collected(cache: Cache) -> tuple[int, int]:
    freed = await cache.gc()
    return freed.rows, freed.bytes


def _open(folder: str | None, *, read_only: bool) -> Runtime:
    chosen = folder if folder is not None else cache_folder()
    if chosen is None:
        raise ConfigError("--cache-dir: there is no home folder to look in; name a folder")
    return Runtime(cache_dir=chosen, ram_bytes=0, cache_read_only=read_only)


def _table(rows: list[RowInfo]) -> str:
    lines = [f"{'key':16}  {'form':8}  {'kind':5}  {'tokens':>15}  {'bytes':>13}  {'hits':>5}  age"]
    lines += [
        f"{row.key[:16]}  {row.form:8}  {'pure' if row.pure else 'mixed':5}  "
        f"{row.start:>7}-{row.start + row.tokens:<7}  {row.size:>13,}  {row.hits:>5}  "
        f"{_age(row.age_s)}  {','.join(row.tiers)}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
