"""A SuperNode admits the installed LUMOS and what its owner approved, and answers for every other
run itself, by Flower's own functions and state."""

import importlib
import json
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from flower_in_process import identify, set_message_id
from flwr.app import Message, RecordDict

from client_app import error_codes
from lumos_core.config import RunConfig
from lumos_core.config.older_runs import ADDED_LATER
from lumos_core.deployment import node_supervisor
from lumos_core.deployment.connection_log import ConnectionLog
from lumos_core.errors import ConfigError, FederationError
from lumos_core.federation import membership
from lumos_core.flower import (
    app_archive,
    app_gate,
    commands,
    gated_superexec,
    live_supernode,
    records,
)
from lumos_core.flower.app_gate import Gate
from lumos_core.wire import versions

node = importlib.import_module(app_gate._NODE)
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def installed() -> Files:
    return commands.app_files()


def fab(files: Files) -> Any:
    """An app as a server sends it; what it calls itself is the server's choice."""
    return node.Fab("0" * 64, app_archive.write(files), {"signed": "by nobody"})


def a_run(**changes: Any) -> Any:
    run = node.Run.create_empty(7)
    run.fab_id, run.fab_version, run.fab_hash = "../../etc/evil", "..", "x"
    for key, value in changes.items():
        setattr(run, key, value)
    return run


class Node:
    """A SuperNode's state and its guarded function.

    Args:
        folder: for the node's data; Flower's home is its ``flower``.
        installed: the app that it runs.
        approved: digests of others.
    """

    def __init__(self, folder: Path, installed: Files, *approved: str) -> None:
        factories = importlib.import_module("flwr.supernode.nodestate")
        stores = importlib.import_module("flwr.supercore.object_store")
        objects = stores.ObjectStoreFactory()
        self.state = factories.NodeStateFactory(objectstore_factory=objects).state()
        self.state.set_node_id(3)
        self.objects = objects.store()
        self.config = {"name": "north", "data": str(folder / "data"), "log-level": "info"}
        self.ledger = folder / "data" / "state" / "ledger.jsonl"
        self.asked = 0
        self.received: list[str] = []
        gate = Gate(app_archive.write(installed), set(approved))
        self._pull = gate.guard(node._pull_and_store_message)

    def receives(self, run: Any, app: Any, kind: str = "query.describe") -> int | None:
        """Receive a message of a run, whose app the server sends."""
        identify()
        objects = importlib.import_module("flwr.supercore.inflatable.inflatable_object")
        message = Message(RecordDict(), 3, kind)
        message.metadata.__dict__["_run_id"] = 7
        parts = {n: o.deflate() for n, o in objects.get_all_nested_objects(message).items()}
        tree = objects.get_object_tree(message)
        self.received.append(message.object_id)
        set_message_id(message, message.object_id)

        def get_fab(fab_hash: str, run_id: int) -> Any:
            self.asked += 1
            return app

        found = self._pull(
            state=self.state, object_store=self.objects, node_config=self.config,
            receive=lambda: (message, tree),
            get_run=lambda run_id: run, get_fab=get_fab,
            pull_object=lambda run_id, name: parts[name],
            confirm_message_received=lambda run_id, name: None, trusted_entities=None,
        )  # fmt: skip
        assert found is None or isinstance(found, int)
        return found

    @property
    def answers(self) -> list[Message]:
        """Replies that are ready to be sent."""
        return list(self.state.get_messages(is_reply=True))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    return tmp_path / "flower"


def with_line(files: Files) -> Files:
    path = "client_app/client.py"
    return {**files, path: files[path] + b'open("ran", "w")\n'}


def unpacked(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("apps/*"))


def test_the_installed_app_is_taken_from_this_machine(
    home: Path, tmp_path: Path, installed: Files
) -> None:
    """Equal files suffice: neither the server's names nor its defaults are used."""
    project = tomli_w.dumps(commands.app_metadata({"rounds": 3, "dp": "user"})).encode()
    own = Node(tmp_path, installed)
    run = a_run(override_config={"rounds": 5}, run_id=99)
    assert own.receives(run, fab({**installed, app_archive.PROJECT: project})) == 7
    kept = own.state.get_run(7)
    assert (kept.fab_id, kept.primary_task_type) == (
        f"approved/{app_archive.digest(installed)}", "flwr-serverapp"
    )  # fmt: skip
    config = own.state.get_run_series_context(0).run_config
    assert (config["rounds"], config["dp"]) == (5, "none")
    [task] = own.state.get_tasks()
    assert task.type == "flwr-clientapp"
    found = importlib.import_module("flwr.common.config").get_project_dir(
        kept.fab_id, kept.fab_version, kept.fab_hash
    )
    assert found.parent == home / "apps"
    assert {
        path.relative_to(found).as_posix(): path.read_bytes()
        for path in found.rglob("*") if path.is_file()
    } == installed  # fmt: skip
    handed_on = app_archive.read(own.state.get_fab(kept.fab_hash).content)
    assert handed_on.keys() == {"pyproject.toml", "digest"}, "it holds no code"


def test_flowers_own_program_cannot_install_what_is_handed_on(
    home: Path, tmp_path: Path, installed: Files
) -> None:
    own = Node(tmp_path, installed)
    own.receives(a_run(), fab(installed))
    content = own.state.get_fab(own.state.get_run(7).fab_hash).content
    install = importlib.import_module("flwr.cli.install").install_from_fab
    before = unpacked(home)
    with pytest.raises(Exception, match="incorrect format"):
        install(content, skip_prompt=True)
    assert unpacked(home) == before


def test_what_the_owner_approved_is_taken_as_sent(
    home: Path, tmp_path: Path, installed: Files
) -> None:
    sent = with_line(installed)
    own = Node(tmp_path, installed, app_archive.digest(sent))
    assert own.receives(a_run(), fab(sent)) == 7
    [folder] = unpacked(home)
    assert folder.startswith(f"approved.{app_archive.digest(sent)}.")
    assert (home / "apps" / folder / "client_app" / "client.py").read_bytes().endswith(b'"w")\n')
    assert own.answers == []


Sent = Callable[[Files], tuple[Any, Any]]
"""Run and app, made of the installed one."""
REFUSED: dict[str, tuple[Sent, str]] = {
    "one line": (lambda f: (a_run(), fab(with_line(f))), "client_app/client.py differs"),
    "one module": (lambda f: (a_run(), fab({**f, "torch.py": b"x"})), "torch.py is added"),
    "no archive": (lambda f: (a_run(), node.Fab("", b"evil", {})), "cannot be unpacked"),
    "a key": (
        lambda f: (a_run(override_config={"evil\x1b": 1}), fab(f)),
        r"Key 'evil\x1b' is not present",
    ),
    "an AgentApp": (
        lambda f: (a_run(primary_task_type="flwr-agentapp"), fab(f)), "of the type flwr-agentapp"
    ),
    "no type": (lambda f: (a_run(primary_task_type=""), fab(f)), "expected flwr-serverapp"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_answered_with_a_code(
    name: str, home: Path, tmp_path: Path, installed: Files, caplog: pytest.LogCaptureFixture
) -> None:
    sent, reason = REFUSED[name]
    own = Node(tmp_path, installed)
    run, app = sent(installed)
    assert own.receives(run, app) == 7
    assert own.receives(run, app, "train") == 7
    assert own.state.get_run(7) is None
    assert own.state.get_tasks() == [], "no process is started for it"
    assert unpacked(home) == []
    describe, train = own.answers
    assert [a.metadata.reply_to_message_id for a in (describe, train)] == own.received
    assert records.decode_error(describe.content) == (error_codes.FOREIGN_APP, "north")
    assert records.decode_error(train.content) == (error_codes.FOREIGN_APP, "")
    told = versions.own().to_info()
    assert records.encode_error("foreign-app", "north", told) == describe.content
    assert own.asked == (0 if "type" in name or "AgentApp" in name else 1), (
        "the app is fetched once at most"
    )
    [line] = [r.getMessage() for r in caplog.records if "foreign-app" in r.getMessage()]
    assert reason in line
    assert "nothing of it was run" in line
    assert "ask who runs the server" in line
    written = [json.loads(text) for text in own.ledger.read_text().splitlines()]
    assert [entry["message"] for entry in written] == ["query.describe", "train"]
    assert [entry["records"][0]["record"] for entry in written] == ["error", "error"]


# ---------------------------------------------------------------- another release
def of_release(files: Files, release: str, **changes: Any) -> Files:
    """An app of another release: one line differs, and the keys of a run as well."""
    metadata: Any = tomllib.loads(files[app_archive.PROJECT].decode())
    metadata["project"]["version"] = release
    metadata["tool"]["lumos"] = changes.pop("own", {})
    metadata["tool"]["flwr"]["app"] |= changes
    return {**with_line(files), app_archive.PROJECT: tomli_w.dumps(metadata).encode()}


def test_a_server_of_another_release_is_worked_for_with_the_installed_app(
    home: Path, tmp_path: Path, installed: Files, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {k: v for k, v in RunConfig().to_flat().items() if k != "encoder"}
    sent = of_release(
        installed, "0.1.0", config={**keys, "later": "off", "rounds": 9},
        own={"as-before": {"later": "off"}},
    )  # fmt: skip
    own = Node(tmp_path, installed)
    assert own.receives(a_run(override_config={"seed": 5}), fab(sent)) == 7
    assert own.answers == []
    [folder] = unpacked(home)
    assert folder.startswith(f"approved.{app_archive.digest(installed)}.")
    client = (home / "apps" / folder / "client_app" / "client.py").read_bytes()
    assert client == installed["client_app/client.py"], "nothing that was sent is unpacked"
    config = own.state.get_run_series_context(0).run_config
    assert config.keys() == RunConfig().to_flat().keys()
    assert (config["seed"], config["rounds"]) == (5, 9), "what the server's run has"
    assert config["encoder"] == ADDED_LATER["encoder"]
    [line] = [r.getMessage() for r in caplog.records if r.name == app_gate.__name__]
    assert "LUMOS 0.1.0; this node works for it with its own, " + versions.own().lumos in line
    assert ConnectionLog(tmp_path, 0)._change(line) == f"[yellow]{line}[/]"


@pytest.mark.parametrize(
    "changes",
    [{"publisher": "other"}, {"components": {"clientapp": "evil:app", "serverapp": "evil:app"}}],
)
def test_another_app_of_another_release_stays_foreign(
    changes: dict[str, Any], home: Path, tmp_path: Path, installed: Files
) -> None:
    own = Node(tmp_path, installed)
    own.receives(a_run(), fab(of_release(installed, "9.0", **changes)))
    [answer] = own.answers
    assert records.decode_error(answer.content) == (error_codes.FOREIGN_APP, "north")
    assert unpacked(home) == []


def test_what_the_owner_approved_runs_whatever_its_release(
    home: Path, tmp_path: Path, installed: Files
) -> None:
    sent = of_release(installed, "9.0")
    Node(tmp_path, installed, app_archive.digest(sent)).receives(a_run(), fab(sent))
    [folder] = unpacked(home)
    assert folder.startswith(f"approved.{app_archive.digest(sent)}.")


def test_a_key_that_this_release_does_not_have_is_refused(
    home: Path, tmp_path: Path, installed: Files, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {**RunConfig().to_flat(), "later": "on"}
    sent = of_release(installed, "9.0", config=keys, own={"as-before": {"later": "off"}})
    own = Node(tmp_path, installed)
    own.receives(a_run(), fab(sent))
    own.receives(a_run(), fab(sent), "train")
    assert own.asked == 1
    answer, _ = own.answers
    assert records.decode_error(answer.content) == (app_gate.BAD_CONFIGURATION, "north")
    assert records.decode_error_versions(answer.content) == versions.own().to_info()
    [line] = [r.getMessage() for r in caplog.records if "is refused" in r.getMessage()]
    assert "sets later = on, which LUMOS" in line
    assert "install LUMOS 9.0 here" in line


def test_the_refusal_says_what_was_sent_and_what_to_do(
    home: Path, tmp_path: Path, installed: Files, caplog: pytest.LogCaptureFixture
) -> None:
    sent = {**with_line(installed), **{f"x{n}.py": b"" for n in range(5)}}
    Node(tmp_path, installed).receives(a_run(), fab(sent))
    [line] = [r.getMessage() for r in caplog.records if "foreign-app" in r.getMessage()]
    assert line.startswith("foreign-app: run 7 is refused: the server sent an app that is neither")
    assert "client_app/client.py differs, x0.py is added, x1.py is added and 3 more" in line
    assert f"its digest is {app_archive.digest(sent)}" in line
    assert f"that of the installed LUMOS is {app_archive.digest(installed)}" in line
    assert "nothing of it was run" in line
    assert "add its digest to approved-apps in node.toml and start the node again" in line


def test_without_its_line_in_the_ledger_another_code_leaves(
    home: Path, tmp_path: Path, installed: Files
) -> None:
    own = Node(tmp_path, installed)
    own.config["data"] = "/proc/nowhere"
    own.receives(a_run(), fab(with_line(installed)))
    [answer] = own.answers
    assert records.decode_error(answer.content) == ("ledger-failed", "north")


def test_a_full_disk_refuses_a_run_only_as_long_as_it_is_full(
    home: Path, tmp_path: Path, installed: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Node(tmp_path, installed)
    write = app_gate.unpack

    def full(files: Files, folder: Path) -> None:
        if folder.parent.name == "apps":
            raise OSError(28, "No space left on device")
        write(files, folder)

    with monkeypatch.context() as patch:
        patch.setattr(app_gate, "unpack", full)
        assert own.receives(a_run(), fab(installed)) == 7
    [answer] = own.answers
    assert records.decode_error(answer.content) == (app_gate.STORAGE_FAILED, "north")
    assert own.receives(a_run(), fab(installed), "train") == 7
    assert own.answers == []
    assert len(unpacked(home)) == 1


# ---------------------------------------------------------------- another Flower


def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's names are put back after the test."""
    monkeypatch.setattr(node, app_gate._PULL, getattr(node, app_gate._PULL))
    monkeypatch.setattr(node, "subprocess", node.subprocess)


def test_this_flower_is_guarded(
    tmp_path: Path, installed: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    untouched(monkeypatch)
    before = node._pull_and_store_message
    path = commands.write_installed(tmp_path / "installed.zip")
    assert app_gate.install(commands.approving(path, "")) == ""
    assert node._pull_and_store_message is not before
    started = node.subprocess.Popen(["flower-superexec", "--version"], stdout=subprocess.PIPE)
    told, _ = started.communicate(timeout=60)
    assert b"1.39" in told
    assert started.args[:3] == gated_superexec.command()[:3], "not what the PATH leads to"


@pytest.mark.parametrize("other", ["1.39.1", "1.40.0", "1.38.0"])
def test_another_flower_is_not_guarded_and_must_not_start(
    other: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = node._pull_and_store_message
    monkeypatch.setattr(app_gate, "version", lambda name: other)
    path = commands.write_installed(tmp_path / "installed.zip")
    assert f"found {other}" in app_gate.install(commands.approving(path, ""))
    assert node._pull_and_store_message is before
    with pytest.raises(FederationError, match=r"install flwr==1\.39\.0"):
        commands.supernode("127.0.0.1:1", 1, tmp_path / "node.toml")


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no function": lambda m: m.delattr(node, "_pull_and_store_message"),
    "other parameters": lambda m: m.setattr(node, "_pull_and_store_message", lambda state: None),
    "no reply": lambda m: m.delattr(node, "_insert_message"),
    "another way to start": lambda m: m.setattr(node, "subprocess", object()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_flower_that_looks_different_is_not_guarded(
    change: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = commands.write_installed(tmp_path / "installed.zip")
    CHANGES[change](monkeypatch)
    assert "does not look as expected" in app_gate.install(commands.approving(path, ""))


def ended(environment: dict[str, str], *more: str) -> "subprocess.CompletedProcess[str]":
    """A SuperNode that has been started by its command."""
    command = [*live_supernode.command("flower-supernode"), *more]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_a_supernode_without_an_installed_app_does_not_start(tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"")
    for environment, reason in (
        ({app_gate.APP: ""}, f"not started: {app_gate.APP} names no file"),
        ({app_gate.APP: str(tmp_path / "none")}, "cannot be read"),
        ({app_gate.APP: str(bad)}, "cannot be read"),
    ):
        done = ended(environment, "--insecure", "--superlink", "127.0.0.1:1")
        assert done.returncode == app_gate.UNSAFE, done.stderr
        assert reason in done.stderr
        assert "Starting Flower SuperNode" not in done.stdout + done.stderr


def test_a_supernode_of_another_flower_does_not_start(tmp_path: Path) -> None:
    """A real process, for which Python finds another version of Flower installed."""
    found = distribution("flwr")
    other = tmp_path / "other" / "flwr-1.40.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: flwr\nVersion: 1.40.0\n")
    (other / "entry_points.txt").write_text(found.read_text("entry_points.txt") or "")
    path = commands.write_installed(tmp_path / "installed.zip")
    done = ended(
        {app_gate.APP: str(path), "PYTHONPATH": str(other.parent)},
        "--insecure", "--superlink", "127.0.0.1:1",
    )  # fmt: skip
    assert done.returncode == app_gate.UNSAFE, done.stderr
    assert "Flower 1.39.0, found 1.40.0" in done.stderr
    assert "Starting Flower SuperNode" not in done.stdout + done.stderr


def test_the_terminal_of_a_node_says_why() -> None:
    said = f"INFO: x\n{live_supernode.REASON.format('found 1.40.0: …')}\n"
    assert node_supervisor._reason(said) == "not started: found 1.40.0: …"


def test_the_codes_are_those_of_the_app() -> None:
    assert app_gate.FOREIGN_APP == error_codes.FOREIGN_APP
    assert app_gate.LEDGER_FAILED == error_codes.LEDGER_FAILED
    assert error_codes.code_of(OSError()) == app_gate.STORAGE_FAILED
    assert error_codes.code_of(ConfigError()) == app_gate.BAD_CONFIGURATION
    assert membership.FOREIGN_APP == error_codes.FOREIGN_APP
    assert membership.OTHER_PROTOCOL == error_codes.OTHER_PROTOCOL


def test_the_log_is_quiet_about_what_is_admitted(
    home: Path, tmp_path: Path, installed: Files, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Node(tmp_path, installed).receives(a_run(), fab(installed))
    assert [r for r in caplog.records if r.name == app_gate.__name__] == []
    assert sys.path.count(str(home / "installed")) == 0
