"""What `import erllama` takes in a fresh process, and that it loads no native library.

Bytecode is cached, as after an installation, in a folder of the benchmark's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from benchmarks.harness import Detail, Figure, Options, Target, environment, in_turns, middle

NAME = "import_time"
TARGET = Target("below", 150.0)
NATIVE = Target("below", 1.0)
OTHERS = ("asyncio", "numpy", "llama_cpp")

_CODE = """
import sys, time
started = time.perf_counter()
import {module}
print((time.perf_counter() - started) * 1e3, int("llama_cpp" in sys.modules))
"""


def run(options: Options) -> list[Figure]:
    modules = ("erllama", *OTHERS)
    taken: dict[str, list[float]] = {module: [] for module in modules}
    loaded = 0
    with tempfile.TemporaryDirectory() as bytecode:
        for turn, order in in_turns(modules, options.times(16, 2)):
            for module in order:
                milliseconds, native = _import(module, bytecode)
                if turn > 0:  # the first one compiles
                    taken[module].append(milliseconds)
                    loaded += native if module == "erllama" else 0
    others: dict[str, Detail] = {f"{module}_ms": middle(taken[module]) for module in OTHERS}
    values = taken["erllama"]
    spread: dict[str, Detail] = {"turns": len(values), "spread": [min(values), max(values)]}
    return [
        Figure(NAME, "import erllama", middle(values), "ms", TARGET, {**others, **spread}),
        Figure(NAME, "imports of erllama that loaded llama_cpp", loaded, "times", NATIVE),
    ]


def _import(module: str, bytecode: str) -> tuple[float, int]:
    variables = environment() | {"PYTHONPYCACHEPREFIX": bytecode}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(module=module)],
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
        cwd=os.sep,
    )
    milliseconds, native = done.stdout.split()
    return float(milliseconds), int(native)
