"""Where all threads are: for the log, when one of them does not come back from a native call."""

from __future__ import annotations


def stacks() -> str:
    """The stacks of all threads, as `faulthandler` writes them."""
    import faulthandler  # here, for nearly no program comes to need them
    import tempfile

    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
