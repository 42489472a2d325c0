"""What a Ray cluster must have before a simulation begins. That one runs on two machines is tested
by tests/integration/test_simulation_on_machines.py."""

import json
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.deployment import ray_cluster, ray_facts
from lumos_core.deployment.ray_cluster import Machine, check_address, check_cluster, machines_line
from lumos_core.errors import ConfigError, FederationError
from lumos_core.flower import commands


@pytest.fixture
def cluster(monkeypatch):
    """``cluster(machine, …)``: as if these had answered."""

    def answered(*machines: Machine) -> None:
        monkeypatch.setattr(ray_cluster, "_knock", lambda address: None)
        monkeypatch.setattr(ray_cluster, "_ask", lambda address, data: list(machines))

    return answered


def machine(address: str, **changes: object) -> Machine:
    good = {"cpus": 1, "shared": True, "writable": True, "app": commands.app_digest(), "torch": "2"}
    return Machine.model_validate({"address": address, **good, **changes})


def test_an_address_is_host_and_port():
    assert check_address("10.0.0.1:6379") == "10.0.0.1:6379"
    for text in ("10.0.0.1", "ray://10.0.0.1:10001", "auto", "h:0", "h:65536", "h:1 x"):
        with pytest.raises(ConfigError, match=r"expected HOST:PORT"):
            check_address(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--ray", "auto"], "expected HOST:PORT"),
     (["--ray", "h:1", "--engine", "in-process"], "only Flower's engine has a Ray cluster")],
)  # fmt: skip
def test_mistakes_are_found_before_anything_starts(options, message, tmp_path):
    run_dir = tmp_path / "run"
    result = CliRunner().invoke(app, ["simulate", *options, "--run-dir", str(run_dir)])
    assert result.exit_code == 1
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_machines_that_have_what_is_needed_are_used(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "version", lambda name: "2")
    cluster(machine("10.0.0.2", cpus=7), machine("10.0.0.1"))
    assert machines_line(check_cluster("h:1", tmp_path)) == (
        "Ray cluster of 2 machines, ClientApps at a time: 8 – 10.0.0.1 (1), 10.0.0.2 (7)"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared": False}, "does not see this machine's"),
        ({"writable": False}, "may not write"),
        ({"app": "0" * 64}, "another LUMOS is installed there"),
        ({"torch": "1"}, "has torch 1, this machine 2"),
        ({"app": "", "problem": "ModuleNotFoundError: lumos_core"}, "LUMOS cannot be used there"),
    ],
)
def test_a_machine_that_lacks_something_is_named(cluster, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(ray_cluster, "version", lambda name: "2")
    cluster(machine("10.0.0.1"), machine("10.0.0.2", **changes))
    with pytest.raises(ConfigError) as error:
        check_cluster("h:1", tmp_path)
    assert f"10.0.0.2: {message}" in str(error.value)
    assert "10.0.0.1:" not in str(error.value)


def test_a_cluster_without_a_cpu_is_refused(cluster, tmp_path):
    cluster()
    with pytest.raises(ConfigError, match="no machine offers a CPU"):
        check_cluster("h:1", tmp_path)


def test_who_cannot_join_learns_why_and_leaves_no_file(tmp_path, monkeypatch):
    failing = "raise ConnectionError('no raylet at 10.0.0.9')"
    real = subprocess.run
    monkeypatch.setattr(
        ray_cluster.subprocess, "run",
        lambda argv, **how: real([sys.executable, "-c", failing], **how),
    )  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        with pytest.raises(FederationError, match=r"no raylet at 10\.0\.0\.9(.|\n)*ray start"):
            check_cluster(address, tmp_path)
    with pytest.raises(FederationError, match="nobody answers there: Connection refused"):
        check_cluster(address, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_this_machines_ray_variables_only_credentials_are_handed_on(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_TLS_CA_CERT", "RAY_USE_TLS", "RAY_TMPDIR", "RAY_NAMESPACE"):
        monkeypatch.setenv(name, "x")
    found = ray_cluster.variables("h:1", tmp_path)
    assert {"RAY_AUTH_TOKEN", "RAY_TLS_CA_CERT", "RAY_USE_TLS"} <= set(found)
    assert not {"RAY_TMPDIR", "RAY_NAMESPACE"} & set(found)
    job = json.loads(found["RAY_JOB_CONFIG_JSON_ENV_VAR"])
    assert job["runtime_env"]["env_vars"]["LUMOS_SIMULATION_DATA"] == str(tmp_path)


def test_a_machine_tells_what_it_has(tmp_path):
    (tmp_path / "mark").touch()
    told = ray_facts.facts(str(tmp_path), "mark")
    found = Machine.model_validate({**told, "address": "a", "cpus": 1})
    assert found.shared
    assert found.writable
    assert (found.app, found.problem) == (commands.app_digest(), "")
    assert not ray_facts.facts(str(tmp_path), "another")["shared"]
