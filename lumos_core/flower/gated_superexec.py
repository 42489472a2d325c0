"""A node's SuperExec: it starts ClientApps and nothing else.

Flower's SuperExec starts processes of six kinds, by their names on the PATH. On a node only
ClientApps have work to do, and another kind, ``flwr-agentapp``, would install and run what it is
sent. So this one asks for no other tasks, and starts ClientApps by a command that depends on no
PATH: the stub of a preloaded process (``preload_stub.py``) if there is one, else
``gated_clientapp.py``. It watches them as ``live_superexec.py`` does. Where Flower is not as
expected, it ends.

    python -P gated_superexec.py flower-superexec ARGUMENT…
"""

import importlib
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROGRAM = "flower-superexec"
CLIENT = "flwr-clientapp"
PRELOADED = "LUMOS_PRELOADED"  # names the folder of a preloaded process, if there is one
FLOWER = "1.39.0"
UNSAFE = 78  # EX_CONFIG
_HERE = Path(__file__).absolute()
_SUBPROCESS = "flwr.supercore.superexec.executor.subprocess_executor"
_PLUGIN = "flwr.supercore.superexec.plugin.base_exec_plugin"


def command() -> list[str]:
    """The beginning of the command that starts one; its options follow."""
    return [sys.executable, "-P", str(_HERE), PROGRAM]


def client_command(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The beginning of the command that starts a ClientApp."""
    if environment.get(PRELOADED):
        return [sys.executable, "-IS", str(_HERE.with_name("preload_stub.py")), CLIENT]
    return [sys.executable, "-P", str(_HERE.with_name("gated_clientapp.py")), CLIENT]


def only_clientapps() -> bool:
    """Start nothing else, in this process; returns whether that is so."""
    starter, plugin = importlib.import_module(_SUBPROCESS), importlib.import_module(_PLUGIN)
    types = importlib.import_module("flwr.supercore.constant").TaskType
    kind = getattr(plugin, "AutoExecPlugin", None)
    popen = getattr(getattr(starter, "subprocess", None), "Popen", None)
    if (
        version("flwr") != FLOWER
        or not callable(popen)
        or getattr(kind, "supported_task_types", None) != frozenset(types)
        or str(types.CLIENT_APP) != CLIENT
    ):
        return False
    setattr(kind, "supported_task_types", frozenset({types.CLIENT_APP}))  # noqa: B010
    own = {**vars(starter.subprocess), "Popen": _only(popen)}
    setattr(starter, "subprocess", SimpleNamespace(**own))  # noqa: B010
    return True


def _only(popen: Callable[..., Any]) -> Callable[..., Any]:
    def start(arguments: list[str], **options: Any) -> Any:
        program, *rest = arguments
        if program != CLIENT:
            raise PermissionError(f"{program}: a node starts nothing but {CLIENT}")
        return popen([*client_command(), *rest], **options)

    return start


def main() -> None:
    (entry,) = entry_points(group="console_scripts", name=sys.argv[1])
    run = entry.load()
    live = runpy.run_path(str(_HERE.with_name("live_superexec.py")))
    if not live["install"]() or not only_clientapps():
        print(
            f"a node's SuperExec runs only in Flower {FLOWER}, found {version('flwr')}, or it does "
            "not look as expected: nothing is started",
            file=sys.stderr,
        )
        raise SystemExit(UNSAFE)
    sys.argv = sys.argv[1:]
    sys.exit(run())


if __name__ == "__main__":
    main()
