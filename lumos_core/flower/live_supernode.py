"""A program that runs Flower's SuperNode and ends as soon as the SuperNode can no longer work.

Flower's SuperNode serves its ClientApps from a thread that keeps the process alive. If the main
thread ends by an error, or the thread that sends heartbeats does, the process stays although it
does no work any more, and nobody starts it again. This program ends the process in these cases.

It runs only the app that the node's owner approved (``app_gate.py``), and ends at once where that
cannot be ensured. It also gives the SuperNode shorter waits (``fast_polling.py``), a connection
that survives faults which pass (``steady_connection.py``), signs off a SuperNode before it that was
killed (``sign_off.py``), answers for ClientApps that have died (``failed_tasks.py``), and sends
replies whole (``whole_replies.py``). All are loaded by their path: the program must also run where
``lumos_core`` cannot be imported, since its folder may hold none.

    python -P live_supernode.py flower-supernode ARGUMENT…

Its environment says which app is approved: see :func:`lumos_core.flower.commands.approving`.
"""

import logging
import os
import runpy
import sys
import threading
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

FAILED = 1
INTERRUPTED = 130
REASON = "not started: {}"
ENDED = 70  # the SuperNode returned, or lost a thread, although nobody asked it to end


def command(path: str) -> list[str]:
    """The beginning of the command that starts a SuperNode; its options follow.

    Args:
        path: of Flower's program, which is found again by its name.
    """
    return [sys.executable, "-P", str(Path(__file__).absolute()), Path(path).name]


def run(program: Callable[[], Any]) -> int:
    """Run a program in this thread; returns the exit code for it, which is 0 only if it asked for
    that. If another thread ends by an error, the process ends.

    Args:
        program: Flower's SuperNode.
    """
    threading.excepthook = _end_with_thread
    try:
        program()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return FAILED
    print("The SuperNode has stopped working.", file=sys.stderr)
    return ENDED


def end(code: int) -> NoReturn:
    """End this process now, whatever threads it has."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with_thread(error: threading.ExceptHookArgs) -> None:
    threading.__excepthook__(error)
    end(ENDED)


def _improve() -> None:
    """Shorten Flower's waits, and make its connection steady."""
    polling = _load("fast_polling.py")
    # Short polls alone would make it slower: they find a message before its arrays are uploaded,
    # and then the wait for arrays begins.
    if polling["wanted"]() and polling["shorten_pulls"]():
        polling["shorten_node_polls"]()
    _load("steady_connection.py")["steady"]()
    _load("sign_off.py")["install"]()
    tasks = _load("failed_tasks.py")
    if tasks["answer_for_the_dead"]():
        tasks["expect_signs_of_life"]()
    tasks["drop_ignored_messages"]()
    _load("whole_replies.py")["in_supernode"]()


def _load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).with_name(name)))


def main() -> NoReturn:
    sys.argv = sys.argv[1:]
    (entry,) = entry_points(group="console_scripts", name=sys.argv[0])
    program = entry.load()
    gate = _load("app_gate.py")
    if reason := gate["install"]():
        print(REASON.format(reason), file=sys.stderr)
        end(gate["UNSAFE"])
    _improve()
    end(run(program))


if __name__ == "__main__":
    main()
