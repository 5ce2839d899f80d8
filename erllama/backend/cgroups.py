"""The control groups of this process, and their limits (Linux).

Folders as cgroups(7) and the kernel's admin-guide/cgroup-v2.rst name them. A container sees its own
group as the root; outside of one each group above counts as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def group_folders(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Folders that may have a limit on this process, of either version, inner groups first.

    Args:
        controller: such as `cpu` or `memory`.
        root: folder that has `proc` and `sys`.

    Raises:
        OSError, ValueError: the system does not tell.
    """
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        if controllers and controller not in controllers.split(","):
            continue
        mount = mount / controllers if controllers else mount
        group = mount / path.strip("/")
        yield from (at for at in (group, *group.parents) if mount in (at, *at.parents))


def memory_present(root: Path = ROOT) -> int:
    """Bytes of memory that this process may have: the machine's, or a group's limit. Never raises.

    What a group's processes have above its limit ends one of them, and no call fails before.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_memory_limits(root)])


def _memory_limits(root: Path) -> list[int]:
    try:
        folders = list(group_folders("memory", root))
    except (OSError, ValueError):
        return []
    files = [at / name for at in folders for name in ("memory.max", "memory.limit_in_bytes")]
    return [limit for file in files if (limit := _number(file)) is not None]


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None
