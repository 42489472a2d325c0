"""The list of checks: what each finds, and whether a node may start all the same."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from flower_in_process import write_nodes
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import checks, credentials, folders
from lumos_core.deployment.checks import Finding
from lumos_core.deployment.doctor import examine
from lumos_core.errors import ConfigError


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    folders.create(tmp_path / "deployment", ["127.0.0.1"], ["a"], 9092, 60)
    return tmp_path / "deployment"


def node_check(deployment: Path, data: Path) -> str:
    bundle = deployment / "nodes" / "a"
    options = ["--data", str(data), "--superlink", "127.0.0.1:1"]
    result = CliRunner().invoke(app, ["node", "check", str(bundle), *options])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_nodes(tmp_path / "data") / "node-0"


@pytest.mark.parametrize("other", ["1.39.1", "1.42.0"])
def test_both_commands_refuse_another_flower(
    other: str, deployment: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [f.level for f in checks.flower()] == ["ok"]
    monkeypatch.setattr(checks.app_gate, "version", lambda name: other)
    with pytest.raises(ConfigError, match=f"found {other}: nothing would keep this node"):
        node_check(deployment, data)
    [found] = [f for f in examine(None, None, None, None, [], None) if f.check == "Flower"]
    assert (found.level, found.fix) == ("fail", "pip install flwr==1.39.0: all sides need it")


@pytest.mark.parametrize(("days", "message"), [(-40, "is valid from"), (4000, "expired on")])
def test_both_commands_refuse_a_certificate_that_is_not_valid_now(
    days: int, message: str, deployment: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(days=days)

    monkeypatch.setattr(credentials, "datetime", Clock)
    found = examine(None, None, deployment / "nodes" / "a", None, [], None)
    [certificate] = [f for f in found if f.level == "fail"]
    assert (certificate.check, message in certificate.found) == ("certificate", True)
    assert "make new certificates" in certificate.fix
    with pytest.raises(ConfigError, match=message):
        node_check(deployment, data)


def test_both_commands_warn_of_one_that_expires_soon(
    deployment: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "expires" not in node_check(deployment, data)
    monkeypatch.setattr(checks, "EXPIRES_SOON_DAYS", 5000.0)
    found = examine(None, None, deployment / "nodes" / "a", None, [], None)
    assert [f.level for f in found if f.check == "certificate"] == ["warn"]
    output = node_check(deployment, data)
    assert f"{deployment / 'nodes' / 'a' / 'ca.crt'} expires in 36" in output
    assert output.endswith("ready\n")


def test_a_node_waits_for_a_server_that_the_doctor_misses() -> None:
    [absent] = checks.server("127.0.0.1:1")
    assert absent.level == "fail"
    assert absent.found == "127.0.0.1:1 cannot be reached yet (Connection refused)"
    assert absent.error is None
    assert "firewall" in absent.fix
    for wrong in ("nonsense", "host:0", "host:x", ":1"):
        [finding] = checks.server(wrong)
        assert (finding.level, finding.found) == ("fail", wrong)
        assert isinstance(finding.error, ConfigError)
    [impossible] = checks.server("a" * 70 + ":1")
    assert impossible.level == "fail"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [finding] = checks.state(tmp_path / "file")
    assert isinstance(finding.error, ConfigError)
    assert "choose another folder with --state" in str(finding.error)
    assert list(checks.state(tmp_path / "new" / "state")) == []
    assert list((tmp_path / "new" / "state").iterdir()) == []


def test_the_doctor_makes_no_state_folder(data: Path) -> None:
    before = sorted(data.rglob("*"))
    assert "fail" not in {f.level for f in examine(data, None, None, None, [], None)}
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize(("free", "level"), [(10**9, "fail"), (10**11, "ok")])
def test_a_model_must_fit_into_memory(
    free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "model.gguf").open("wb") as file:
        file.write(b"GGUF")
        file.truncate(10**9)
    memory = SimpleNamespace(available=free)
    monkeypatch.setattr(checks.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(
        checks,
        "find_model",
        lambda name: SimpleNamespace(kind="gguf", location=name),
    )
    name = str(tmp_path / "model.gguf")
    found = [f for f in examine(None, None, None, None, [], name) if f.check == "LLM"]
    assert [f.level for f in found] == [level]
    assert "needs about 6.0 GB of memory" in found[0].found


def test_checks_do_nothing_before_they_are_asked(tmp_path: Path) -> None:
    checks.state(tmp_path / "state")
    assert not (tmp_path / "state").exists()
    assert list(checks.node_llm("")) == []
    assert list(checks.device("cpu")) == []
    [port] = checks.port(2**20)
    assert isinstance(port, Finding)
    assert port.level == "fail"


def test_a_node_without_the_authority_s_certificate_is_told_whom_to_ask(
    deployment: Path, data: Path
) -> None:
    (deployment / "nodes" / "a" / "ca.crt").unlink()
    with pytest.raises(ConfigError, match=r"ca\.crt: is not there, .* the server's operator gives"):
        node_check(deployment, data)


def test_each_certificate_is_repaired_in_its_own_way(
    deployment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "EXPIRES_SOON_DAYS", 5000.0)
    found = examine(None, None, deployment / "server", None, [], None)
    fixes = {Path(f.found.split()[0]).name: f.fix for f in found if f.check == "certificate"}
    assert fixes == {
        "ca.crt": "lumos deploy renew --extend-ca, and give ca.crt to nodes",
        "server.crt": "lumos deploy renew",
    }


def test_a_file_with_several_certificates_is_known_for_one(deployment: Path) -> None:
    ca = deployment / "server" / "ca.crt"
    ca.write_bytes(ca.read_bytes() * 2)
    [finding] = checks.certificate(ca)
    assert finding.found.endswith("(the first of 2 certificates in it)")
