"""Keeping Ctrl-C in the main thread of the process that a person has started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block; threads and processes started in it never get it.

    They inherit the blocked signal. This is wanted: if a thread took the signal, the main thread
    would continue to wait; if a worker process took it, it would print its own traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
