"""The command ``lumos``, also as ``python -m lumos_core``.

Loading the libraries of a command may take seconds. Ctrl-C in this time must print one line, as at
any other time, and not a traceback of the import that was interrupted. Therefore :func:`main` sets
up the handling of interrupts before it imports anything else.
"""

import signal
import sys
import types
from contextlib import suppress
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 plus the signal's number, as in shells."""


class _Interrupts:
    """Raises KeyboardInterrupt as Python does, and remembers it. A library that is interrupted
    while it loads may turn the KeyboardInterrupt into an ImportError, or lose it in a callback."""

    def __init__(self) -> None:
        self.seen = self.lost = self._in_callback = False
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores it
            signal.signal(signal.SIGINT, self._raise)
            sys.unraisablehook = self._again

    def _raise(self, number: int, frame: types.FrameType | None) -> None:
        if self._in_callback:  # raised here, it would be lost again
            self._later()
            return
        self.seen, self.lost = True, False
        raise KeyboardInterrupt

    def _again(self, lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(lost)
            return
        self.lost = self._in_callback = True
        try:
            self._later()
        finally:
            self._in_callback = False

    @staticmethod
    def _later() -> None:
        """Interrupt again a little later: an exception that a callback raises is lost."""
        import _thread
        import threading

        again = threading.Timer(0.01, _thread.interrupt_main)
        again.daemon = True
        with suppress(RuntimeError):  # the interpreter is already ending
            again.start()


def main() -> None:
    """Run the command line; Ctrl-C at any time is one line, and exit code 130."""
    interrupts = _Interrupts()
    try:
        from lumos_core.cli.app import main as run

        run()
    except SystemExit as end:
        if interrupts.lost or _is_silent(end):
            _interrupted()
        raise
    except BaseException as error:
        if interrupts.seen or isinstance(error, KeyboardInterrupt):
            _interrupted()
        raise


def _is_silent(end: SystemExit) -> bool:
    """Whether typer turned an interrupt into an exit code without a message. Commands that turn it
    into an exit code themselves have already printed what it means."""
    cause = getattr(end.__context__, "__cause__", None)
    return end.code == INTERRUPTED and isinstance(cause, KeyboardInterrupt)


def _interrupted() -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second interrupt must not disturb the ending
    # If an interrupt leaves an exec() of text (namedtuple and dataclasses use it), CPython records
    # it as unhandled and ends by the signal after all; the next exec() clears that record.
    exec("")
    print("interrupted", file=sys.stderr)
    raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
