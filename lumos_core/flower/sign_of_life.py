"""A sign of life: a file that a process changes as long as its main loop goes on.

A process can exist and do nothing: stopped, in a deadlock, or waiting for ever. Whoever starts it
names a file in ``LUMOS_SIGN_OF_LIFE``, and looks whether its content changes. Programs load this
module by its path, so it imports nothing but the standard library.
"""

import os
import time
from contextlib import suppress

SWITCH = "LUMOS_SIGN_OF_LIFE"
EVERY_SECONDS = 1.0
_last = [0.0]


def beat() -> None:
    """Change the file, at most once a second; does nothing if none is named."""
    now = time.monotonic()
    path = os.environ.get(SWITCH)
    if path and now - _last[0] >= EVERY_SECONDS:
        _last[0] = now
        with suppress(OSError), open(path, "w", encoding="ascii") as file:
            file.write(str(now))  # a full disk is no reason to end
