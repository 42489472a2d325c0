"""The preloaded process: it imports what every ClientApp process imports, and forks on request.

It is a program, which :mod:`lumos_core.flower.preload` runs as a file. It imports ``lumos_core``
only from the folder ``APP``, if one is given: then a node runs no other app, and the folder's name
is that app's digest. Nothing is installed in a fork: see ``gated_clientapp.py``. It forks only
while it has a single thread, and never touches a GPU. ``preload_stub.py`` describes the requests.

    python -P preload_server.py FOLDER [APP]
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
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
"""Modules to import. Polars is not among them, because it starts threads."""
APP_MODULES = (
    "client_app.client", "client_app.open_node", "client_app.received_model",
    "client_app.secure_steps",
)  # fmt: skip
"""Modules of the app; with what they import, nearly all that a message needs."""
PATIENCE_SECONDS = 5.0
AGREE_SECONDS = 15.0  # in which a fork agrees or ends: three times as long as a stub waits for it
LOOK_SECONDS = 5.0
SOCKET, READY, GO, DONE = "socket", b"R", b"G", b"D"
PID_BYTES = 4


def load(app: Path | None = None) -> Callable[[], Any]:
    """Import everything that Flower's program needs; returns the program.

    Args:
        app: folder of the only app that will run; named by its digest.

    Raises:
        SystemExit: this process now has several threads, so it must not fork.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else NumPy starts threads; torch's are separate
    (entry,) = entry_points(group="console_scripts", name=PROGRAM)
    program: Callable[[], Any] = entry.load()
    gated = runpy.run_path(str(Path(__file__).with_name("gated_clientapp.py")))
    gated["install_nothing"]("" if app is None else app.name)
    modules: tuple[str, ...] = MODULES
    if app is not None:
        sys.path.insert(0, str(app))
        modules += APP_MODULES
    for module in modules:
        importlib.import_module(module)
    polling = runpy.run_path(str(Path(__file__).with_name("fast_polling.py")))
    if polling["wanted"]():
        polling["shorten_pulls"]()
    runpy.run_path(str(Path(__file__).with_name("failed_tasks.py")))["send_signs_of_life"]()
    runpy.run_path(str(Path(__file__).with_name("whole_replies.py")))["in_clientapp"]()
    if threads() > 1:
        raise SystemExit(f"{threads()} threads after the imports: not forking")
    return program


def threads() -> int:
    """Number of threads of this process, including those of libraries."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 2  # unknown; with more than one thread, nothing is forked


class Forks:
    """Forks that have not agreed with their stubs yet. One that hangs before that would stay for
    ever: its stub, which ends those that agreed, does not know of it."""

    def __init__(self) -> None:
        self._until: dict[int, tuple[int, float]] = {}  # pid → end of a pipe, time

    def fork(self) -> int:
        """Fork this process.

        Returns:
            In the fork, the end of a pipe, to be closed when it has agreed; 0 in this process.
        """
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            return theirs
        os.close(theirs)
        self._until[pid] = ours, time.monotonic() + AGREE_SECONDS
        return 0

    def end_late(self) -> None:
        """Kill those that have had time enough; forget those that have agreed or ended."""
        for pid, (pipe, until) in list(self._until.items()):
            closed = bool(select.select([pipe], [], [], 0)[0])
            if not closed and time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)  # it holds its end of the pipe, so it is that process
                closed = True
            if closed:
                os.close(pipe)
                del self._until[pid]


def serve(listener: socket.socket) -> tuple[socket.socket, int]:
    """Fork on every request. Returns only in the forks: the connection to the requesting stub, and
    what :meth:`Forks.fork` returned."""
    forks = Forks()
    listener.settimeout(LOOK_SECONDS)
    while True:
        forks.end_late()
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        connection.settimeout(PATIENCE_SECONDS)
        with suppress(OSError, ValueError, KeyError):
            head, streams, _, _ = socket.recv_fds(connection, 4, 3)
            try:
                request = json.loads(_exactly(connection, int.from_bytes(head, "big")))
                if len(streams) == 3 and threads() == 1 and (pipe := forks.fork()):
                    listener.close()
                    _turn_into(request, streams)
                    return connection, pipe
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
    """Take over the streams, folder, environment and arguments of the requesting stub."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    sys.argv = [PROGRAM, *request["argv"]]
    sys.modules["numpy"].random.seed()  # else all forks draw the same random numbers


def _agree(connection: socket.socket, pipe: int) -> None:
    """Tell the stub that the fork is ready and wait for its GO; exit if it does not come."""
    try:
        connection.sendall(READY + os.getpid().to_bytes(PID_BYTES, "big"))
        agreed = connection.recv(1) == GO
    except OSError:
        agreed = False
    if not agreed:
        os._exit(1)
    os.close(pipe)
    connection.settimeout(None)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()


def _end_with(connection: socket.socket) -> None:
    """Kill this process when the stub has ended. It is not ended by SIGTERM: Flower's program would
    then report that it failed but send no answer, and the SuperNode would wait for the answer
    forever. A process that sends nothing any more is given up after a minute."""
    with suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    program = load(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    os.chdir(sys.argv[1])
    Path(SOCKET).unlink(missing_ok=True)  # of the one before, which has died
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks need not be waited for
    gc.collect()
    gc.freeze()  # memory shared with forks stays shared
    listener.listen()
    print("preloaded", flush=True)
    connection, pipe = serve(listener)
    _agree(connection, pipe)
    work(program, connection)


def work(program: Callable[[], Any], connection: socket.socket) -> None:
    """Run the program, and tell the stub if it ended well: the stub ends with the same result."""
    try:
        program()
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    with suppress(OSError):
        connection.sendall(DONE)


if __name__ == "__main__":
    main()
