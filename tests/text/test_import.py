"""What `import erllama` brings in: nothing that takes long to load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = {"jinja2", "numpy", "rich", "typer", "llama_cpp"}
PROGRAM = "import sys, json, erllama; print(json.dumps(sorted(sys.modules)))"


def test_import_erllama_loads_none_of_the_heavy_libraries() -> None:
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
        timeout=60,
    )
    loaded = set(json.loads(child.stdout))
    assert "erllama.runtime" in loaded
    assert loaded & HEAVY == set()
