"""Asks a preloaded process to fork for a ClientApp, instead of starting a new one.

It is a program, which a node's SuperExec (``gated_superexec.py``) runs as a file; the folder with
the socket of ``preload_server.py`` is named in its environment. It imports only the standard
library. It runs as long as the fork does: ending the stub ends the fork. If the preloaded process
does not answer, or not as expected, the stub becomes the program that a fork would have run
(``gated_clientapp.py``), which takes longer to start.

    python -IS preload_stub.py flwr-clientapp ARGUMENT…

The protocol: the stub sends arguments, folder and environment as JSON, with the length before it
and the three standard streams beside it. The fork answers ``READY`` and its number. The stub then
sends ``GO``; from there on the fork does the work, and the stub no longer may. A fork that ended
well says ``DONE``; if it ends without that, the stub ends with an error, so that a SuperExec that
watches it (``live_superexec.py``) learns that the message will not be answered. SIGTERM to the stub
kills the fork, even one that is stopped.

A node answers a few messages at a time. On a machine that cannot keep up, Flower starts a program
for a message whose first one has not come far enough yet, then another one, and each makes the
others slower. So the stub takes one of a few places first, and ends if none is free: that message
is lost, and the server learns so from Flower; those that are at work finish.
"""

import fcntl
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

FOLDER = "LUMOS_PRELOADED"
PATIENCE_SECONDS = 5.0
PLACES = 4
NO_PLACE = 75  # the exit code of programs that may succeed later (EX_TEMPFAIL)
SOCKET, READY, GO, DONE = "socket", b"R", b"G", b"D"
PID_BYTES = 4
FAILED = 1


def ask(folder: Path) -> tuple[socket.socket, int] | None:
    """The connection to a fork that does our work, and the fork's number; or None."""
    request = {"argv": sys.argv[2:], "cwd": os.getcwd(), "environ": dict(os.environ)}
    data = json.dumps(request).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_SECONDS)
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)  # a relative name, since the path of a socket must be short
        connection.connect(SOCKET)
        socket.send_fds(connection, [len(data).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(data)
        if connection.recv(1) == READY:
            pid = int.from_bytes(connection.recv(PID_BYTES, socket.MSG_WAITALL), "big")
            connection.sendall(GO)
            return connection, pid
    except OSError:
        pass
    finally:
        os.fchdir(here)
        os.close(here)
    connection.close()
    return None


def take_place(folder: Path) -> bool:
    """Whether this process may work; its place is free again when it ends, and what it becomes."""
    for number in range(PLACES):
        place = os.open(folder / f"place-{number}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(place)
        else:
            os.set_inheritable(place, True)
            return True
    return False


def become() -> None:
    """Replace this process by the program that a fork would have run."""
    program = Path(__file__).absolute().with_name("gated_clientapp.py")
    os.execv(sys.executable, [sys.executable, "-P", str(program), *sys.argv[1:]])


def main() -> None:
    folder = Path(os.environ[FOLDER])
    if not take_place(folder):
        print(f"{sys.argv[1]}: {PLACES} are at work for this node: not one more", file=sys.stderr)
        raise SystemExit(NO_PLACE)
    found = ask(folder)
    if found is None:
        become()
        return
    raise SystemExit(wait(*found))


def wait(connection: socket.socket, pid: int) -> int:
    """Wait until the fork ends; returns 0 if it ended well."""

    def end(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os._exit(FAILED)

    signal.signal(signal.SIGTERM, end)
    connection.settimeout(None)
    with suppress(OSError):
        if connection.recv(1) == DONE:
            return 0
    return FAILED


if __name__ == "__main__":
    main()
