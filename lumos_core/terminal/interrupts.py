"""Ctrl-C belongs to the main thread of the process that a person has started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[None]:
    """Ctrl-C waits until the end of the block, and never reaches what is started in it.

    Threads and processes inherit it. A thread that took the signal would leave the main thread
    waiting for whatever it waits for; a worker would print a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
