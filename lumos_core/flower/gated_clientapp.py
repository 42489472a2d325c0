"""A ClientApp's process that installs nothing: it loads what its SuperNode has unpacked.

Flower's program installs the app that comes with every message. A SuperNode of LUMOS unpacks apps
itself, once, and only those that its owner approved (``app_gate.py``). So installing is left out
here, which also makes every message cheaper. Where Flower is not as expected, the process ends.

``preload_server.py`` forks such processes. Where there is none, this file is a program:

    python -P gated_clientapp.py flwr-clientapp ARGUMENT…
"""

import importlib
import runpy
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import entry_points, version
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

FLOWER = "1.39.0"
_RUN = "flwr.supernode.runtime.run_clientapp"
DIGEST = "digest"  # the file that says which app to load, in what a SuperNode hands on
_INSTALLS = ("install_from_fab", "install_app_dependencies")


def install_nothing(loaded: str = "") -> None:
    """Change Flower's program in this process.

    Args:
        loaded: digest of the app whose modules this process has imported already; messages of any
            other app fail. Empty: none.

    Raises:
        SystemExit: this is another Flower.
    """
    module = importlib.import_module(_RUN)
    if version("flwr") != FLOWER or not all(callable(getattr(module, n, None)) for n in _INSTALLS):
        raise SystemExit(f"ClientApps run only in Flower {FLOWER}, found {version('flwr')}")
    setattr(module, _INSTALLS[0], _leaving_out(loaded))
    setattr(module, _INSTALLS[1], _refuse)


def _leaving_out(loaded: str) -> Callable[..., None]:
    """In the place of Flower's installing: the app is there already, or loading it fails."""

    def leave_out(content: bytes, **options: Any) -> None:
        if not loaded:
            return
        with zipfile.ZipFile(BytesIO(content)) as archive:
            wanted = archive.read(DIGEST).decode()
        if wanted != loaded:
            raise PermissionError(f"this process has loaded app {loaded}, not {wanted}")

    return leave_out


def _refuse(*arguments: Any, **options: Any) -> NoReturn:
    raise PermissionError("nodes install no packages for an app")


def main() -> None:
    sys.argv = sys.argv[1:]
    (entry,) = entry_points(group="console_scripts", name=sys.argv[0])
    run = entry.load()
    install_nothing()
    runpy.run_path(str(Path(__file__).with_name("failed_tasks.py")))["send_signs_of_life"]()
    runpy.run_path(str(Path(__file__).with_name("whole_replies.py")))["in_clientapp"]()
    sys.exit(run())


if __name__ == "__main__":
    main()
