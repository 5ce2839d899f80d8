"""llama-server, built once from the llama.cpp that llama-cpp-python's source package brings along.

So the peer has the same kernels as the library that erllama calls. The program is kept in
$XDG_CACHE_HOME/erllama-benchmarks; building it takes about ten minutes.
"""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata

_PACKAGE = "llama-cpp-python"
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
}


class BuildFailed(Exception):
    """llama-server could not be built."""


def server_program() -> pathlib.Path:
    """The program, built now unless an earlier call did.

    Raises:
        BuildFailed: cmake is missing, or a step of the build failed.
    """
    version = metadata.version(_PACKAGE)
    folder = cache_folder() / f"llama-server-{version}-{platform.machine()}"
    program = folder / "llama-server"
    if not program.exists():
        if shutil.which("cmake") is None:
            raise BuildFailed(
                "llama-server is built with cmake, which is not installed: install cmake and a C++ "
                "compiler, or leave the peer out with --no-peers"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            built = _build(version, pathlib.Path(work), folder / "build.log")
            built.replace(program)  # whole or not at all, also where two build at once
    return program


def cache_folder() -> pathlib.Path:
    """Where the program is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "erllama-benchmarks"


def _build(version: str, work: pathlib.Path, log: pathlib.Path) -> pathlib.Path:
    print(f"building llama-server, once, about ten minutes; log: {log}", flush=True)
    log.write_text("")
    pip = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps"]
    _call([*pip, "--dest", str(work), f"{_PACKAGE}=={version}"], log)
    (package,) = work.glob("*.tar.gz")
    with tarfile.open(package) as archive:
        archive.extractall(work, filter="data")
    (source,) = work.glob("*/vendor/llama.cpp")
    defines = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
    _call(["cmake", "-S", str(source), "-B", str(work / "build"), *defines], log)
    jobs = str(len(os.sched_getaffinity(0)))
    _call(["cmake", "--build", str(work / "build"), "--target", "llama-server", "-j", jobs], log)
    return work / "build" / "bin" / "llama-server"


def _call(command: list[str], log: pathlib.Path) -> None:
    with log.open("a") as file:
        done = subprocess.run(command, stdout=file, stderr=file, check=False)
    if done.returncode:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildFailed(f"{' '.join(command[:3])} … returned {done.returncode}; {log}:\n{said}")
