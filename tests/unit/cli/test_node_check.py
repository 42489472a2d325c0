"""``lumos node check`` says `ready` only if nothing here keeps the node from working."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from flower_in_process import write_nodes
from tiny_llm import save_tiny_llm
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import folders
from lumos_core.deployment.forgetting import UNFINISHED, Unfinished
from lumos_core.errors import ConfigError, DataError
from lumos_core.learning.devices import check_device

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folders.create(tmp_path / "deployment", ["127.0.0.1"], ["a"], 9092, 30)
    return tmp_path / "deployment" / "nodes" / "a"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_nodes(tmp_path / "data") / "node-0"


def checked(bundle: Path, data: Path, *options: object, superlink: str = NOWHERE) -> str:
    arguments = ("node", "check", bundle, "--data", data, "--superlink", superlink, *options)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, Exception):
        assert "ready" not in result.output
        raise result.exception
    assert result.exit_code == 0
    return result.output


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that treats its one connection so; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


def test_a_node_whose_server_is_not_there_yet_is_ready(bundle, data) -> None:
    output = checked(bundle, data)
    assert "cannot be reached yet (Connection refused)" in output
    assert output.endswith("ready\n")


def test_short_users_are_counted_and_block_nobody(bundle, data) -> None:
    assert "a: 6 users, 30 items" in checked(bundle, data)
    with (data / "interactions.tsv").open("a") as file:
        file.write("new\ti1\t1\nnewer\ti1\t1\nnewer\ti2\t2\n")
    output = checked(bundle, data)
    assert "6 users (2 more left out: fewer than 3 interactions each), 30 items" in output
    assert output.endswith("ready\n")


def test_a_node_of_short_users_alone_is_not_ready(bundle, data) -> None:
    (data / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\nnew\ti1\t1\n")
    with pytest.raises(DataError, match="found no user with at least 3 inter"):
        checked(bundle, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--llm", "/no/such/model"], r"key 'llm': .*/no/such/model.*no such file or folder"),
        (["-c", "device=nonsense"], "device = 'nonsense': torch knows no such device"),
        (["-c", "device=cuda:999"], "torch .* can use . devices of type cuda"),
    ],
)
def test_what_is_not_there_is_an_error(bundle, data, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(bundle, data, *options)


@pytest.mark.parametrize("options", [["-c", "foo=1"], ["-c", "threads=none"]])
def test_a_mistake_on_the_command_line_is_not_blamed_on_the_file(bundle, data, options) -> None:
    with pytest.raises(ConfigError, match=r"^on the command line: .*(unknown key 'foo'|threads)"):
        checked(bundle, data, *options)
    with pytest.raises(ConfigError, match=r"^--superlink"):
        checked(bundle, data, superlink="nowhere")


def test_a_mistake_in_the_file_is_blamed_on_the_file(bundle, data) -> None:
    with (bundle / "node.toml").open("a") as file:
        file.write("\nfoo = 1\n")
    with pytest.raises(ConfigError, match=r"^/.*node\.toml: unknown key 'foo'"):
        checked(bundle, data, "-c", "threads=2")


def test_a_model_that_neither_disk_nor_hub_has(bundle, data, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"'nosuchmodel': not in the local hub cache"):
        checked(bundle, data, "--llm", "nosuchmodel")


def test_a_model_folder_is_found_from_where_the_node_works(
    bundle, data, tmp_path, monkeypatch
) -> None:
    save_tiny_llm(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert "ready" in checked(bundle, data, "--llm", "model")
    with pytest.raises(ConfigError, match=f"expected an absolute one.*{tmp_path / 'model'}"):
        checked(bundle, data, "-c", "llm=model")


def test_a_server_without_tls_is_no_server_for_a_node(bundle, data) -> None:
    def plainly(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(b"\0\0\0\4\0\0\0\0\0\0\0\0\0")  # HTTP/2 settings, as gRPC begins
        connection.recv(4096)

    with (
        server(plainly) as address,
        pytest.raises(ConfigError, match="answers, but without TLS"),
    ):
        checked(bundle, data, superlink=address)


def test_a_connection_that_is_cut_counts_as_not_there_yet(bundle, data) -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(65536)

    with server(cut) as address:
        output = checked(bundle, data, superlink=address)
    assert "cannot be reached yet (Connection " in output


@pytest.mark.parametrize("kind", [ssl.SSLEOFError, ssl.SSLZeroReturnError])
def test_either_end_of_a_handshake_is_a_connection_that_is_cut(
    bundle, data, monkeypatch, kind
) -> None:
    """OpenSSL's versions differ; with a published port of Docker both were seen."""

    def cut(*_: object, **__: object) -> None:
        raise kind(8, "TLS/SSL connection has been closed (EOF) (_ssl.c:992)")

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", cut)
    with server(lambda connection: None) as address:
        output = checked(bundle, data, superlink=address)
    assert "cannot be reached yet (Connection closed by peer)" in output


def test_a_server_with_the_right_certificate(bundle, data) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = bundle.parent.parent / "server"
    context.load_cert_chain(folder / "server.crt", folder / "server.key")

    def shake_hands(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).recv(1)

    with server(shake_hands) as address:
        output = checked(bundle, data, superlink=address)
    assert "cannot be reached" not in output
    assert "ready" in output


@pytest.mark.parametrize("name", ["", "nonsense", "cuda:-1", "meta"])
def test_devices_that_nobody_has(name) -> None:
    with pytest.raises(ConfigError, match=f"device = '{name}'"):
        check_device(name)


def test_devices_of_a_machine_with_two_gpus(monkeypatch) -> None:
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        check_device(name)
    for name in ("cuda:2", "cuda:999", "xpu"):
        with pytest.raises(ConfigError, match="expected one of them, or cpu"):
            check_device(name)


def test_every_command_with_a_device_checks_it_first(tmp_path) -> None:
    for arguments in (
        ["recommend", "--data", "nowhere", "--user", "a", "--device", "nonsense"],
        ["train-central", "nowhere", "--out", str(tmp_path / "x"), "--device", "nonsense"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, ConfigError), arguments
        assert "device = 'nonsense'" in str(result.exception)


def test_a_run_checks_the_device_of_its_nodes(tmp_path) -> None:
    options = ["-c", "node.device=nonsense", "--run-dir", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["run", *options])
    assert "-c node.…: device = 'nonsense'" in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [(["-c", "node.foo=1"], "-c node.…: unknown key 'foo'"),
     (["-c", "tracking=mlflow"], "key 'tracking': mlflow is not installed")],
)  # fmt: skip
def test_a_run_finds_mistakes_before_it_writes_anything(tmp_path, options, message) -> None:
    result = CliRunner().invoke(app, ["run", *options, "--run-dir", str(tmp_path / "run")])
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_users_who_are_half_forgotten_are_told(bundle: Path, data: Path) -> None:
    assert "node forget" not in checked(bundle, data)
    Unfinished(salt="00").write(data / "state" / UNFINISHED)
    output = checked(bundle, data)
    assert "'lumos node forget' was interrupted on this node" in output
    assert "ready" in output
