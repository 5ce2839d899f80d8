"""Who still reads what is about to be freed."""

from __future__ import annotations

import threading

from erllama.errors import EngineError


class Readers:
    """A gate for threads that read native memory: `shut` waits until the last one has left.

    Used as a context manager by readers. After `shut`, entering raises `EngineError`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._changed:
            if self._shut:
                raise EngineError("the model was unloaded")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in any more, and wait for those inside."""
        with self._changed:
            self._shut = True
            self._changed.wait_for(lambda: self._inside == 0)
