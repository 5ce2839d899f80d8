"""The limits of this process's control groups, in files that are made here."""

from __future__ import annotations

import os
import pathlib

import pytest

from erllama.backend.cgroups import group_folders, memory_present
from erllama.backend.llama import option_check
from erllama.backend.llama.gguf_file import read_header
from erllama.backend.llama.option_check import check_options
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import ConfigError
from tests.models import TINY, cached_model

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


def write(root: pathlib.Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_each_group_above_counts_up_to_the_mount(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:memory:/a\n3:cpu,cpuacct:/c\n0::/a/b\n")
    mount = tmp_path / "sys/fs/cgroup"
    memory = [mount / "memory/a", mount / "memory", mount / "a/b", mount / "a", mount]
    assert list(group_folders("memory", tmp_path)) == memory
    assert next(group_folders("cpuacct", tmp_path)) == mount / "cpu,cpuacct/c"


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/\n", "memory.max"),
        ("0::/app/model\n", "app/memory.max"),
        ("4:memory:/app\n0::/\n", "memory/app/memory.limit_in_bytes"),
    ],
)
def test_a_limit_below_the_machines_memory_is_what_there_is(
    tmp_path: pathlib.Path, groups: str, file: str
) -> None:
    write(tmp_path, "proc/self/cgroup", groups)
    assert memory_present(tmp_path) == PHYSICAL
    write(tmp_path, f"sys/fs/cgroup/{file}", f"{300 * MIB}\n")
    assert memory_present(tmp_path) == 300 * MIB


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n", "", "odd"])
def test_no_limit_is_the_machines_memory(tmp_path: pathlib.Path, limit: str) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", limit)
    assert memory_present(tmp_path) == PHYSICAL


def test_where_nothing_is_told_the_machines_memory_counts(tmp_path: pathlib.Path) -> None:
    assert memory_present(tmp_path) == PHYSICAL
    write(tmp_path, "proc/self/cgroup", "odd\n")
    assert memory_present(tmp_path) == PHYSICAL
    assert 0 < memory_present() <= PHYSICAL


def test_a_kv_cache_above_the_limit_is_refused_before_it_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header = read_header(cached_model(TINY))
    context = ContextConfig(n_ctx=8_192, n_seq_max=64)
    check_options(ModelConfig(), context, header)  # half a GiB
    monkeypatch.setattr(option_check, "memory_present", lambda: 300 * MIB)
    with pytest.raises(ConfigError, match=r"n_ctx: 8,192 .* machine or container has 0\.3 GiB"):
        check_options(ModelConfig(), context, header)
