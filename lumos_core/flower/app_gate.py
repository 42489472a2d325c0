"""A SuperNode that runs only the app that its owner approved, made by changing Flower's names.

Flower installs and imports on a node whatever app the server sends. Here the SuperNode looks at the
app of every run before it stores the run. An app whose digest (``app_archive.py``) is that of the
installed LUMOS is taken from this machine, and one whose digest is in the owner's ``approved-apps``
is taken as sent. A run of a server whose LUMOS is of another release is worked for with the
installed one (``other_release.py``). Every other run is refused: its messages are answered with the
code ``foreign-app``, by this process, and the log says what was sent and what to do. So nothing of
what is neither installed nor approved is unpacked, and no process starts for it.

What is approved is unpacked once, to the folder from which ClientApps load it. They install nothing
(``gated_clientapp.py``), and what this SuperNode hands on could not be installed: it holds only the
app's ``pyproject.toml``.

If Flower is another version or does not look as expected, :func:`install` says why, and the
SuperNode must not start: without this gate it would run anything. ``live_supernode.py`` loads the
file by its path.
"""

import importlib
import inspect
import logging
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

log = logging.getLogger(__name__)

APP = "LUMOS_INSTALLED_APP"  # names a file: the installed LUMOS, as an archive
APPROVED = "LUMOS_APPROVED_APPS"  # digests, with commas between them
LINE = "%s: run %d is refused: %s"  # connection_log.py looks for it, and for the next one
OTHER = "run %d is of a server with LUMOS %s; this node works for it with its own, %s"
FLOWER = "1.39.0"
DIGEST = "digest"  # the file that says which app to load, in what is handed on
FOREIGN_APP = "foreign-app"  # the same in client_app/error_codes.py
LEDGER_FAILED, STORAGE_FAILED = "ledger-failed", "storage-failed"
BAD_CONFIGURATION = "bad-configuration"
UNSAFE = 78  # the exit code of a program that is not set up as it must be (EX_CONFIG)

_NODE, _PULL = "flwr.supernode.start_client_internal", "_pull_and_store_message"
_PARAMETERS = (
    "state", "object_store", "node_config", "receive", "get_run", "get_fab", "pull_object",
    "confirm_message_received", "trusted_entities",
)  # fmt: skip
_USED = ("_insert_message", "get_fused_config_from_fab", "Message", "RecordDict", "Fab")
_PUBLISHER, _VERSION = "approved", "1"  # of apps in Flower's folder of apps; the name is the digest
_REMEMBERED = 1000  # refused runs
_SHOWN_FILES, _SHOWN_CHARACTERS = 3, 80
_WHAT_TO_DO = (
    "nothing of it was run. If you trust that app, add its digest to approved-apps in node.toml "
    "and start the node again; if not, ask who runs the server for the LUMOS that is installed here"
)

_ASK = "nothing of it was run; ask who runs the server"

_archive: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("app_archive.py")))
_releases: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("other_release.py")))


class RefusedRunError(Exception):
    """A run that this node does not work for; the text is for the owner."""

    code = FOREIGN_APP


class UntranslatedRunError(RefusedRunError):
    """Its server's release has keys that this one does not have."""

    code = BAD_CONFIGURATION


class NoStorageError(RefusedRunError):
    """Its app cannot be unpacked, which may pass."""

    code = STORAGE_FAILED


def wrong_flower() -> str:
    """Why apps cannot be checked with this version of Flower; empty if they can."""
    found = version("flwr")
    if found == FLOWER:
        return ""
    return (
        f"apps are checked inside Flower {FLOWER}, found {found}: nothing would keep this node "
        f"from running any app, so it does not start; install flwr=={FLOWER}"
    )


def install(environment: Mapping[str, str] = os.environ) -> str:
    """Guard this process; returns why that is impossible, or an empty text."""
    if reason := wrong_flower():
        return reason
    module = importlib.import_module(_NODE)
    original = getattr(module, _PULL, None)
    if (
        not callable(original)
        or tuple(inspect.signature(original).parameters) != _PARAMETERS
        or not all(hasattr(module, name) for name in _USED)
        or getattr(module, "subprocess", None) is not subprocess
    ):
        return "Flower's SuperNode does not look as expected: apps cannot be checked"
    path = environment.get(APP)
    if not path:
        return f"{APP} names no file: start nodes with 'lumos node start' or 'lumos run'"
    try:
        approved = {d for d in environment.get(APPROVED, "").split(",") if d}
        gate = Gate(Path(path).read_bytes(), approved)
    except (OSError, ValueError) as error:
        return f"{path}: the installed LUMOS cannot be read: {error}"
    setattr(module, _PULL, gate.guard(original))
    _start_only(module)
    return ""


def _start_only(module: Any) -> None:
    """Have the SuperNode start the SuperExec for nodes, wherever the PATH leads."""
    program = [sys.executable, "-P", str(Path(__file__).with_name("gated_superexec.py").absolute())]

    def popen(command: list[str], *args: Any, **kwargs: Any) -> Any:
        return subprocess.Popen([*program, *command], *args, **kwargs)

    setattr(module, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": popen}))  # noqa: B010


class Gate:
    """Decides which runs may be worked for.

    Args:
        installed: the installed LUMOS, as an archive.
        approved: digests of other apps.

    Raises:
        ValueError: the archive is malformed.
    """

    def __init__(self, installed: bytes, approved: set[str]) -> None:
        self._files: dict[str, bytes] = _archive["read"](installed)
        self.installed: str = _archive["digest"](self._files)
        self._project: Any = _releases["Project"].read(self._files[_archive["PROJECT"]])
        self._approved = approved
        self._refused: OrderedDict[int, tuple[type[RefusedRunError], str]] = OrderedDict()
        if self._project is None:
            raise ValueError("its pyproject.toml is not as LUMOS writes it")

    def guard(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Flower's function that receives a message and stores its run, which now asks here."""

        def pull(**call: Any) -> Any:  # as Flower calls it
            received: list[Any] = []

            def receive() -> Any:
                found = call["receive"]()
                received[:] = [found[0]] if found else []
                return found

            passed: dict[int, Any] = {}

            def get_run(run_id: int) -> Any:
                run, passed[run_id] = self.admit(run_id, call["get_run"], call["get_fab"])
                return run

            def get_fab(fab_hash: str, run_id: int) -> Any:
                return passed[run_id]

            own = {"receive": receive, "get_run": get_run, "get_fab": get_fab}
            try:
                return original(**{**call, **own})
            except RefusedRunError as error:
                [message] = received
                return self._answer(message, error.code, call)

        return pull

    def admit(
        self, run_id: int, get_run: Callable[[int], Any], get_fab: Callable[[str, int], Any]
    ) -> tuple[Any, Any]:
        """The run and the app that may be stored.

        Args:
            run_id: of the message.
            get_run, get_fab: ask the server.

        Raises:
            RefusedRunError: none may.
        """
        if run_id in self._refused:
            kind, reason = self._refused[run_id]
            raise kind(reason)
        try:
            return self._admitted(run_id, get_run(run_id), get_fab)
        except RefusedRunError as error:
            log.error(LINE, error.code, run_id, error)
            if not isinstance(error, NoStorageError):
                self._remember(run_id, error)
            raise

    def _remember(self, run_id: int, error: RefusedRunError) -> None:
        self._refused[run_id] = type(error), str(error)
        while len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)

    def _admitted(
        self, run_id: int, run: Any, get_fab: Callable[[str, int], Any]
    ) -> tuple[Any, Any]:
        constants = importlib.import_module("flwr.supercore.constant")
        expected = str(constants.TaskType.SERVER_APP)
        if run.primary_task_type != expected:
            found = _shown(run.primary_task_type)
            raise RefusedRunError(f"it is of the type {found}, expected {expected}; {_ASK}")
        digest, files, other = self._checked(get_fab(run.fab_hash, run_id).content)
        app = self._handed_on(digest, files)
        keys = run.override_config if other is None else self._translated(run, other)
        own = replace(
            run, run_id=run_id, fab_id=f"{_PUBLISHER}/{digest}", fab_version=_VERSION,
            fab_hash=app.hash_str, primary_task_type=expected, override_config=keys,
        )  # fmt: skip
        if other is not None:
            log.warning(OTHER, run_id, other.release, self._project.release)
        _check_keys(app, own)
        self._unpack(own, files)
        return own, app

    def _checked(self, content: bytes) -> tuple[str, dict[str, bytes], Any]:
        """Digest and files of the app that may run: the installed one, or one that is approved.

        The third is what the app that was sent says of itself, if it is of another release; then
        the other two are those of the installed one.
        """
        try:
            sent = _archive["read"](content)
            digest = _archive["digest"](sent)
        except ValueError as error:
            raise RefusedRunError(f"the server sent no proper app: {error}; {_ASK}") from None
        if digest == self.installed:
            return digest, self._files, None
        if digest in self._approved:
            return digest, sent, None
        project = _releases["Project"].read(sent[_archive["PROJECT"]])
        if project is not None and project.is_other_release_of(self._project):
            return self.installed, self._files, project
        found = _archive["differences"](sent, self._files)
        told = ", ".join(_shown(text) for text in found[:_SHOWN_FILES])
        more = f" and {len(found) - _SHOWN_FILES} more" if len(found) > _SHOWN_FILES else ""
        raise RefusedRunError(
            f"the server sent an app that is neither the installed LUMOS nor approved: {told}"
            f"{more}; its digest is {digest}, that of the installed LUMOS is {self.installed}; "
            f"{_WHAT_TO_DO}"
        )

    def _translated(self, run: Any, sent: Any) -> dict[str, Any]:
        """A run's configuration in the keys of the installed release."""
        try:
            changes = dict(run.override_config)
            keys: dict[str, Any] = _releases["translated"](sent, changes, self._project)
        except ValueError as error:
            raise UntranslatedRunError(f"{error}; nothing of it was run") from None
        return keys

    def _handed_on(self, digest: str, files: Mapping[str, bytes]) -> Any:
        """What ClientApps get with each message: it says which app to load, and holds no code."""
        project = _archive["PROJECT"]
        content = _archive["write"]({project: files[project], DIGEST: digest.encode()})
        module = importlib.import_module(_NODE)
        return module.Fab(sha256(content).hexdigest(), content, {})

    def _unpack(self, run: Any, files: Mapping[str, bytes]) -> None:
        """Unpack an app where ClientApps look for it, unless it is there."""
        config = importlib.import_module("flwr.common.config")
        try:
            unpack(files, config.get_project_dir(run.fab_id, run.fab_version, run.fab_hash))
        except OSError as error:
            raise NoStorageError(f"its app cannot be unpacked: {error}") from None

    # ------------------------------------------------------------ answers

    def _answer(self, message: Any, code: str, call: Mapping[str, Any]) -> int:
        """Answer a message of a refused run, as a ClientApp answers what it refuses."""
        module = importlib.import_module(_NODE)
        reply = self._error(module, message, code, call["node_config"])
        if not self._recorded(reply, call["node_config"]):
            reply = self._error(module, message, LEDGER_FAILED, call["node_config"])
        module._insert_message(reply, call["state"], call["object_store"])
        return int(message.metadata.run_id)

    def _error(self, module: Any, message: Any, code: str, node_config: Mapping[str, Any]) -> Any:
        """A reply with a code; the same as ``records.encode_error`` makes."""
        records = importlib.import_module("flwr.app")
        values = {"code": code}
        if message.metadata.message_type == "query.describe":
            values |= {
                "version": self._project.release,
                "protocol": str(self._project.protocol),
                "flower": version("flwr"),
                "python": ".".join(map(str, sys.version_info[:2])),
                "name": str(node_config.get("name", "")),
            }
        content = module.RecordDict({"error": records.ConfigRecord(values)})
        return module.Message(content, reply_to=message)

    def _recorded(self, reply: Any, node_config: Mapping[str, Any]) -> bool:
        """Whether the owner's ledger names the reply; written by the installed LUMOS itself."""
        try:
            home = importlib.import_module("flwr.supercore.utils").get_flwr_home()
            folder = Path(home) / "installed"
            unpack(self._files, folder)
            if str(folder) not in sys.path:
                sys.path.append(str(folder))  # the last: nothing of Flower is replaced
            ledger = importlib.import_module("client_app.ledger")
            config = importlib.import_module("lumos_core.config")
            state = config.NodeConfig.from_flat(dict(node_config)).state_folder
            ledger.append(state, reply, 0)
        except Exception as error:  # whatever it is must not end the SuperNode
            log.error("the ledger does not name a reply (%s: %s)", type(error).__name__, error)
            return False
        return True


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of an app to a folder, as a whole or not at all, unless it exists.

    Raises:
        OSError: they cannot be written.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        _archive["write_files"](files, work)
        work.rename(folder)
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        if not folder.exists():  # otherwise another process was faster
            raise


def _check_keys(app: Any, run: Any) -> None:
    """Raises RefusedRunError if the run sets a key that the app does not have, or anything else
    about its configuration would end the SuperNode, which puts it together by the same function."""
    module = importlib.import_module(_NODE)
    try:
        module.get_fused_config_from_fab(app.content, run)
    except Exception as error:  # ValueError; and whatever a pyproject.toml can cause
        raise RefusedRunError(
            f"the run's configuration does not fit the app: {_shown(error)}; {_ASK}"
        ) from None


def _shown(text: object) -> str:
    """What a server has chosen, fit for a terminal."""
    return ascii(str(text))[1:-1][:_SHOWN_CHARACTERS]
