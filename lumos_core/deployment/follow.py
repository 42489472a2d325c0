"""Following a run from outside: its events, its summary, and whether the SuperLink answers."""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from lumos_core.errors import FederationError
from lumos_core.flower.commands import LOOPBACK
from lumos_core.processes.children import Child
from lumos_core.runs.history import Event

HEALTH_SECONDS = 90.0  # a cold start on a busy machine takes 20
SUMMARY_SECONDS = 3.0  # between the end of a run and its summary being seen
FOLLOW_SECONDS = 0.2


def wait_healthy(link: Child, control_port: int, ca: Path | None = None) -> None:
    """Wait until a SuperLink answers on its control port.

    Args:
        link: it.
        control_port: on loopback.
        ca: authority of its certificate; None if it speaks plain HTTP.

    Raises:
        FederationError: it has ended, or does not answer in time.
    """
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if ca is not None:
        context = ssl.create_default_context(cafile=str(ca))
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    url = f"{'http' if ca is None else 'https'}://{LOOPBACK}:{control_port}/health"
    until = time.monotonic() + HEALTH_SECONDS
    while time.monotonic() < until:
        if link.exit_code is not None:
            raise ended(link)
        try:
            with opener.open(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise FederationError(
        f"the SuperLink did not become healthy within {HEALTH_SECONDS:g} s; the end of "
        f"{link.log}:\n{link.last_lines()}"
    )


class Tail:
    """Calls back with each complete line of a JSONL file that is written from now on.

    A resumed run first writes its history anew, as another file; until then there is nothing new.
    """

    def __init__(self, path: Path, callback: Callable[[Event], None]) -> None:
        self._path, self._callback, self._offset = path, callback, 0
        self._old = path.stat().st_ino if path.exists() else None

    def report(self) -> None:
        """Look once."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_ino == self._old:
                return
            file.seek(self._offset)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            self._callback(json.loads(line))


def ended(child: Child) -> FederationError:
    """What to say of a child that ended although it should not."""
    return FederationError(
        f"{child.name} ended with exit code {child.exit_code}; the end of "
        f"{child.log}:\n{child.last_lines()}"
    )
