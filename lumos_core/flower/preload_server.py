"""Imports what every ClientApp process imports, then forks for each that is asked for.

A program, run by :mod:`lumos_core.flower.preload` as a file: ``lumos_core`` itself must not
be imported here, because a ClientApp takes it from the app that the server sent. Forks only while
it has a single thread, and touches no GPU. ``preload_stub.py`` says how it is asked.

    python -P preload_server.py FOLDER
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

PROGRAM = "flwr-clientapp"
MODULES = (
    "numpy.random", "torch", "pydantic", "safetensors.torch", "filelock", "sqlite3", "httpcore",
    "flwr.app", "flwr.clientapp",
)  # fmt: skip
"""Polars is not among them: it starts threads."""
PATIENCE_SECONDS = 5.0
SOCKET, READY, GO = "socket", b"R", b"G"


def load() -> Callable[[], Any]:
    """Flower's program, with everything that it is going to need.

    Raises:
        SystemExit: this process has several threads now, and must not fork.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else NumPy starts threads; torch has its own
    (entry,) = entry_points(group="console_scripts", name=PROGRAM)
    program: Callable[[], Any] = entry.load()
    for module in MODULES:
        importlib.import_module(module)
    polling = runpy.run_path(str(Path(__file__).with_name("fast_polling.py")))
    if polling["wanted"]():
        polling["shorten_pulls"]()
    if threads() > 1:
        raise SystemExit(f"{threads()} threads after the imports: not forking")
    return program


def threads() -> int:
    """Threads of this process, those of libraries too."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 2  # who cannot count does not fork


def serve(listener: socket.socket) -> socket.socket:
    """Fork whenever somebody asks. Returns only in forks: the connection to who asked."""
    while True:
        connection, _ = listener.accept()
        connection.settimeout(PATIENCE_SECONDS)
        with suppress(OSError, ValueError, KeyError):
            head, streams, _, _ = socket.recv_fds(connection, 4, 3)
            try:
                request = json.loads(_exactly(connection, int.from_bytes(head, "big")))
                if len(streams) == 3 and threads() == 1 and os.fork() == 0:
                    listener.close()
                    _turn_into(request, streams)
                    return connection
            finally:
                for stream in streams:
                    with suppress(OSError):
                        os.close(stream)
        connection.close()


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := connection.recv(count - len(data))):
            raise ValueError("cut off")
        data += more
    return data


def _turn_into(request: dict[str, Any], streams: list[int]) -> None:
    """Take over the streams, folder, environment and arguments of who asked."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    sys.argv = [PROGRAM, *request["argv"]]
    sys.modules["numpy"].random.seed()  # else all forks draw the same


def _agree(connection: socket.socket) -> None:
    """Have the work handed over; end if who asked has turned to somebody else."""
    try:
        connection.sendall(READY)
        agreed = connection.recv(1) == GO
    except OSError:
        agreed = False
    if not agreed:
        os._exit(1)
    connection.settimeout(None)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()


def _end_with(connection: socket.socket) -> None:
    """End this process when the one that asked has ended: at once and without a word. On SIGTERM
    Flower's program would report that it failed, but answer nothing, and the SuperNode would wait
    for the answer for ever; one that it hears nothing of any more, it gives up after a minute."""
    with suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    program = load()
    os.chdir(sys.argv[1])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks need not be waited for
    gc.collect()
    gc.freeze()  # memory shared with forks stays shared
    listener.listen()
    print("preloaded", flush=True)
    connection = serve(listener)
    _agree(connection)
    sys.exit(program())


if __name__ == "__main__":
    main()
