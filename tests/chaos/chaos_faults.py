"""The faults of the chaos run. Each is a context: entering it causes the fault, leaving it takes
the cause away. What it yields says when the cause was gone, if that was before."""

import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

import psutil
from chaos_federation import HOSTS, SMALL_DISK, WRONG_CLOCK, Federation, filled, is_zombie
from deployment_support import wait_for

HOLD_SECONDS = 10.0  # for which a fault stays that has to be taken away
HUNG_SECONDS = 120.0  # for a process that hangs to be noticed


@dataclass
class Cause:
    """A fault that was caused.

    Attributes:
        what: for the report.
        gone: time.monotonic() at which its cause was gone; 0: on leaving the context.
        noticed: seconds until the fault was noticed, where that is a part of the question.
    """

    what: str
    gone: float = 0.0
    noticed: float | None = None


Fault = Callable[[Federation, random.Random], AbstractContextManager[Cause]]


# ---------------------------------------------------------------- processes that die or hang
def _kill(program: str, on_server: bool = False) -> Fault:
    @contextmanager
    def fault(federation: Federation, draw: random.Random) -> Iterator[Cause]:
        host = "server" if on_server else draw.choice(HOSTS)
        victim = federation.find(host, program)
        victim.kill()
        yield Cause(f"{program} of {host}", time.monotonic())

    return fault


@contextmanager
def _kill_client_app(federation: Federation, draw: random.Random) -> Iterator[Cause]:
    host = draw.choice(HOSTS)
    federation.client_app(host).kill()
    yield Cause(f"ClientApp of {host}", time.monotonic())


def _kill_supervisor(on_server: bool) -> Fault:
    """The supervisor dies, and a service manager starts it again at once."""

    @contextmanager
    def fault(federation: Federation, draw: random.Random) -> Iterator[Cause]:
        host = "server" if on_server else draw.choice(HOSTS)
        process = federation.running[host]
        process.kill()
        process.wait()
        gone = time.monotonic()
        time.sleep(1.0)  # the guard ends its processes; a service manager waits as well
        federation.start(host)
        yield Cause(f"supervisor of {host}", gone)

    return fault


def _hang(program: str, on_server: bool = False) -> Fault:
    """A process stops to do anything (SIGSTOP); the cause is gone when somebody has ended it."""

    @contextmanager
    def fault(federation: Federation, draw: random.Random) -> Iterator[Cause]:
        host = "server" if on_server else draw.choice(HOSTS)
        victim = federation.find(host, program) if program else federation.client_app(host)
        begin = time.monotonic()
        victim.suspend()
        cause = Cause(f"{program or 'ClientApp'} of {host} (SIGSTOP)")
        try:
            wait_for(lambda: not victim.is_running() or is_zombie(victim), HUNG_SECONDS)
            cause.noticed = round(time.monotonic() - begin, 1)
        except AssertionError:
            cause.noticed = -1.0  # never
        cause.gone = time.monotonic()
        with suppress(psutil.Error):
            victim.resume()
        yield cause

    return fault


# ---------------------------------------------------------------- links
def _link(on_server: bool, seconds: float = HOLD_SECONDS) -> Fault:
    @contextmanager
    def fault(federation: Federation, draw: random.Random) -> Iterator[Cause]:
        host = "server" if on_server else draw.choice(HOSTS)
        federation.network.plug(host, up=False)
        try:
            time.sleep(seconds)
            yield Cause(f"link of {host} down for {seconds:g} s")
        finally:
            federation.network.plug(host)

    return fault


def _proxy(what: str, **order: object) -> Fault:
    @contextmanager
    def fault(federation: Federation, draw: random.Random) -> Iterator[Cause]:
        federation.order(**order)
        try:
            time.sleep(HOLD_SECONDS)
            yield Cause(what)
        finally:
            federation.order()

    return fault


# ---------------------------------------------------------------- disks, clocks, replies
def _full_disk(on_server: bool) -> Fault:
    @contextmanager
    def fault(federation: Federation, draw: random.Random) -> Iterator[Cause]:
        host = "server" if on_server else SMALL_DISK
        filler = filled(federation.deployment.home(host))
        try:
            time.sleep(HOLD_SECONDS)
            yield Cause(f"disk of {host} full for {HOLD_SECONDS:g} s")
        finally:
            filler.unlink()

    return fault


def _clock(on_server: bool, by: int) -> Fault:
    @contextmanager
    def fault(federation: Federation, draw: random.Random) -> Iterator[Cause]:
        host = "server" if on_server else WRONG_CLOCK
        file = federation.clock(host)
        with file.open("r+b") as clock:  # the same file, which is mapped
            clock.write(struct.pack("q", by))
        try:
            time.sleep(HOLD_SECONDS)
            yield Cause(f"clock of {host} {by:+} s for {HOLD_SECONDS:g} s")
        finally:
            with file.open("r+b") as clock:
                clock.write(struct.pack("q", 0))

    return fault


@contextmanager
def _hostile(federation: Federation, draw: random.Random) -> Iterator[Cause]:
    """A node that answers with what nobody asked for, another thing each time."""
    sent = federation.hostile.with_suffix(".sent")
    sent.unlink(missing_ok=True)
    federation.hostile.write_text("any")
    try:
        time.sleep(HOLD_SECONDS)
        kinds = len(sent.read_text().splitlines()) if sent.exists() else 0
        yield Cause(f"node-3 sends {kinds} wrong replies")
    finally:
        federation.hostile.write_text("")


FAULTS: dict[str, Fault] = {
    "kill-clientapp": _kill_client_app,
    "kill-supernode": _kill("flower-supernode"),
    "kill-node-superexec": _kill("flower-superexec"),
    "kill-preloaded": _kill("preload_server.py"),
    "kill-node": _kill_supervisor(on_server=False),
    "kill-serverapp": _kill("flwr-serverapp", on_server=True),
    "kill-superexec": _kill("flower-superexec", on_server=True),
    "kill-superlink": _kill("flower-superlink", on_server=True),
    "kill-server": _kill_supervisor(on_server=True),
    "hang-clientapp": _hang(""),
    "hang-supernode": _hang("flower-supernode"),
    "hang-node-superexec": _hang("flower-superexec"),
    "hang-serverapp": _hang("flwr-serverapp", on_server=True),
    "hang-superexec": _hang("flower-superexec", on_server=True),
    "hang-superlink": _hang("flower-superlink", on_server=True),
    "link-node": _link(on_server=False),
    "link-node-long": _link(on_server=False, seconds=45),
    "link-server": _link(on_server=True),
    "delay": _proxy("requests of two nodes take 1 s longer", delay=1.0),
    "internal": _proxy("INTERNAL for two nodes", status="INTERNAL"),
    "unavailable": _proxy("UNAVAILABLE for two nodes", status="UNAVAILABLE"),
    "unimplemented": _proxy("UNIMPLEMENTED for two nodes", status="UNIMPLEMENTED"),
    "disk-node": _full_disk(on_server=False),
    "disk-server": _full_disk(on_server=True),
    "clock-node-ahead": _clock(on_server=False, by=60),
    "clock-node-behind": _clock(on_server=False, by=-3600),
    "clock-server-ahead": _clock(on_server=True, by=3600),
    "clock-server-behind": _clock(on_server=True, by=-3600),
    "hostile": _hostile,
}
