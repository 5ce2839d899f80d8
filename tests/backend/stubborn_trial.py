"""A child of `erllama.backend.trial` that does what a text says, within its limits."""

from __future__ import annotations

import os
import signal
import sys
import time

from erllama.backend import trial_child
from erllama.backend.trial import SURVIVED


def main() -> None:
    trial_child.CPU_S = 1
    trial_child._limit_memory()
    os.write(1, SURVIVED)
    while request := trial_child._read(sys.stdin.buffer):
        trial_child._limit_time()
        match request.text.split()[0]:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "sleep":
                time.sleep(1_000)
            case "compute":
                while True:
                    pass
            case "allocate":
                bytearray(2 << 30)
            case text if "die" in text:
                os.kill(os.getpid(), signal.SIGSEGV)
        os.write(1, SURVIVED)


if __name__ == "__main__":
    main()
