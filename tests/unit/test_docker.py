"""Compose files and Dockerfile, without Docker: the specification's schema (as check-jsonschema
ships it), what operators rely on, and commands read by the programs that they start. What
containers do on a real engine is tested in ``tests/docker``."""

import importlib.util
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import jsonschema
import pytest
import typer
import yaml
from dockerfile_parse import DockerfileParser

from lumos_core.cli.app import app
from lumos_core.data.prepare import prepare
from lumos_core.deployment import folders
from lumos_core.deployment.connection_file import ConnectionWriter
from lumos_core.errors import ConfigError
from lumos_core.flower import commands

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
README = (DOCKER / "README.md").read_text("utf-8")
NODES = ["node-0", "node-1", "node-2"]
FILES = ("compose.yml", "server.yml", "node.yml")
STARTED = ("server.yml", "node.yml", "compose.yml")


def read(name: str) -> dict[str, Any]:
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DOCKER / name).read_text("utf-8"))
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def extended(name: str, service: str) -> dict[str, Any]:
    """A service with what it extends, by the rules of the specification: mappings are merged, lists
    joined, everything else is replaced."""
    own = dict(read(name)["services"][service])
    if "extends" not in own:
        return own
    base = own.pop("extends")
    return _merged(extended(base.get("file", name), base["service"]), own)


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {k: _merged(base[k], v) if k in base else v for k, v in over.items()}
    if isinstance(base, list) and isinstance(over, list):
        return base + over
    return over


SERVICES = {
    (name, service): extended(name, service) for name in FILES for service in read(name)["services"]
}
EACH = pytest.mark.parametrize(
    "service", SERVICES.values(), ids=["-".join(key) for key in SERVICES]
)
RUNNING = {key: value for key, value in SERVICES.items() if key[1] != "init"}
ONE_HOST = {service: SERVICES["compose.yml", service] for service in ("init", "server", *NODES)}


@pytest.mark.parametrize("name", [*FILES, "common.yml", "artefact.yml", "versions.yml"])
def test_the_specification_accepts_the_files(name: str) -> None:
    vendored = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(vendored.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    content = read(name)
    assert [e.message for e in validator.iter_errors(content)] == []
    service = next(iter(content["services"].values()))
    service["comand"] = []
    assert not validator.is_valid(content)


def test_who_is_started() -> None:
    assert set(read("compose.yml")["services"]) == {"init", "server", *NODES}
    assert set(read("server.yml")["services"]) == {"server"}
    assert set(read("node.yml")["services"]) == {"node"}


@EACH
def test_no_service_has_more_rights_than_it_needs(service: dict[str, Any]) -> None:
    assert service["user"] == "49999:49999"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["mem_limit"]
    assert 0 < service["pids_limit"] <= 512
    forbidden = {"privileged", "cap_add", "pid", "ipc", "devices", "volumes_from", "secrets"}
    assert not service.keys() & forbidden
    assert service.get("network_mode") in (None, "none")
    assert not any("docker.sock" in str(volume) for volume in service["volumes"])


@EACH
def test_no_service_can_pull_an_image(service: dict[str, Any]) -> None:
    assert service["image"] == f"lumos:{_version()}"
    assert service["pull_policy"] == "never"


def _version() -> str:
    from lumos_core import __version__

    return __version__


@EACH
def test_logs_are_bounded_and_orphans_are_reaped(service: dict[str, Any]) -> None:
    options = service["logging"]["options"]
    assert options["max-size"] == "10m"
    assert int(options["max-file"]) <= 3
    assert service["init"] is True


@pytest.mark.parametrize("key", RUNNING, ids=["-".join(key) for key in RUNNING])
def test_what_is_started_is_restarted_and_watched(key: tuple[str, str]) -> None:
    service = RUNNING[key]
    server = key[1] == "server"
    # a server that has completed its run ends with 0 and must stay so
    assert service["restart"] == ("on-failure:5" if server else "unless-stopped")
    words = ["server", "/given/kit/ca.crt"] if server else ["node", "/state"]
    test = ["CMD", "python", "/opt/lumos/docker/healthcheck.py", *words]
    assert service["healthcheck"]["test"] == test
    # of the one stack on two cores at start; a check that succeeds ends it
    assert service["healthcheck"]["start_period"] == "300s"


def test_only_the_fleet_port_is_published_and_only_for_other_machines() -> None:
    published = {key: s["ports"] for key, s in SERVICES.items() if "ports" in s}
    assert published == {("server.yml", "server"): ["0.0.0.0:9092:9092"]}


def test_every_node_has_a_network_and_volumes_of_its_own() -> None:
    content = read("compose.yml")
    for node in NODES:
        assert ONE_HOST[node]["networks"] == [node]
        assert content["networks"][node] == {"internal": True}
        assert ONE_HOST[node]["volumes"] == [f"{node}-given:/given:ro", f"{node}-state:/state"]
    assert ONE_HOST["server"]["networks"] == NODES
    assert ONE_HOST["server"]["volumes"] == ["server-given:/given:ro", "server-state:/state"]
    assert ONE_HOST["init"]["network_mode"] == "none"
    given = [f"{name}-given:/init/{name}" for name in ("server", *NODES)]
    assert ONE_HOST["init"]["volumes"] == given
    assert ONE_HOST["init"]["command"] == NODES


def test_volumes_belong_to_one_project() -> None:
    """A volume with a name of its own is shared, and `down --volumes` of another project removes
    it."""
    for name in FILES:
        content = read(name)
        named = {
            volume.split(":")[0]
            for service in content["services"].values()
            for volume in service["volumes"]
            if isinstance(volume, str)
        }
        assert content["volumes"] == {volume: {} for volume in named}


def test_a_wrong_path_makes_no_folder() -> None:
    for name in ("server.yml", "node.yml"):
        for service in read(name)["services"].values():
            binds = [volume for volume in service["volumes"] if isinstance(volume, dict)]
            assert len(binds) == 2
            for bind in binds:
                assert bind["type"] == "bind"
                assert bind["read_only"] is True
                assert bind["bind"] == {"create_host_path": False}


def test_the_image_is_built_by_one_service() -> None:
    built = {key: service["build"] for key, service in SERVICES.items() if "build" in service}
    [(key, build)] = built.items()
    assert key == ("compose.yml", "init")
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()


# ---------------------------------------------------------------- commands
def options_of(words: list[str]) -> dict[str, Any]:
    """What ``lumos`` reads in the words after its name."""
    command: Any = typer.main.get_command(app)
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(click.Context(command), words)
    options: dict[str, Any] = command.make_context("lumos", words).params
    return options


def test_lumos_understands_the_commands() -> None:
    server = options_of(shlex.split(extended("common.yml", "server")["command"]))
    places = [str(server[key]) for key in ("folder", "catalog", "run_dir", "state")]
    assert places == ["/given/kit", "/given/catalog.tsv", "/state/run", "/state"]
    assert server["bind"] == "0.0.0.0"
    health = load("healthcheck")
    assert f"https://127.0.0.1:{server['control_port']}/health" == health.CONTROL
    node = options_of(shlex.split(extended("common.yml", "node")["command"]))
    places = [str(node[key]) for key in ("bundle", "data", "state")]
    assert places == ["/given/bundle", "/given/data", "/state"]


def test_options_are_those_of_lumos() -> None:
    """Compose splits a command like a shell, after it has put the variable in."""
    text = (DOCKER / "common.yml").read_text("utf-8")
    for service, variable in (("server", "LUMOS_SERVER_OPTIONS"), ("node", "LUMOS_NODE_OPTIONS")):
        command = yaml.safe_load(text)["services"][service]["command"]
        assert isinstance(command, str)
        assert command.endswith("${" + variable + ":-}")
    examples = re.findall(r"^LUMOS_SERVER_OPTIONS='(.*)'$", README, re.MULTILINE)
    assert examples
    base = extended("common.yml", "server")["command"]
    for example in examples:
        assert options_of(shlex.split(f"{base} {example}"))["settings"]


def test_every_variable_is_in_the_readme() -> None:
    used = {
        name
        for file in (*FILES, "common.yml", "artefact.yml", "versions.yml")
        for name in re.findall(r"\$\{(\w+)", (DOCKER / file).read_text("utf-8"))
    }
    explained = set(re.findall(r"^\| `(LUMOS_\w+)`", README, re.MULTILINE))
    assert used == explained


def test_git_ignores_what_the_readme_makes() -> None:
    """Keys, data and results must not be committed by accident."""
    ignored = (DOCKER / ".gitignore").read_text("utf-8").split()
    made = set(re.findall(r"deploy init (\w+)|--out (\w+)|(?<=\s)\./(\w+) ", README, re.M))
    names = {name.split("/")[-1] for found in made for name in found if name}
    assert {"deployment", "data", "result"} <= names
    assert {f"/{name}/" for name in names} <= set(ignored)
    assert {"/.env", "*.tar.gz", "/server/", "/node/", "/catalog.tsv"} <= set(ignored)


# ---------------------------------------------------------------- what the apps need
def dockerfile() -> DockerfileParser:
    return DockerfileParser(fileobj=(DOCKER / "Dockerfile").open("rb"))


LAUNCH = """
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec

spec = ExecutionSpec(
    TaskType.SERVER_APP, "127.0.0.1:1", "token", True, None, False, None, False, task_id=1
)
SubprocessExecutor().launch(spec)
"""
SERVER_APP = """#!{python} -P
from lumos_core.views.llm.find import default_cache

print(default_cache())
"""


def test_the_environment_of_a_container_reaches_the_apps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By way of our supervisors and Flower's SuperExec, to a program in the ServerApp's place."""
    program = tmp_path / "bin/flwr-serverapp"
    program.parent.mkdir()
    program.write_text(SERVER_APP.format(python=sys.executable))
    program.chmod(0o700)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    handed_on = commands.environment(tmp_path / "home")
    handed_on["PATH"] = os.pathsep.join([str(program.parent), handed_on["PATH"]])
    command = [sys.executable, "-P", "-c", LAUNCH]
    done = subprocess.run(command, env=handed_on, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [str(tmp_path / "cache")], done.stderr


def test_apps_cache_in_a_volume() -> None:
    cache = Path(dockerfile().envs["LUMOS_CACHE"])
    for service in RUNNING.values():
        targets = [v.split(":")[1] for v in service["volumes"] if isinstance(v, str)]
        assert any(cache.is_relative_to(target) for target in targets)


# ---------------------------------------------------------------- the Dockerfile
def test_the_dockerfile() -> None:
    steps = [(s["instruction"], s["value"]) for s in dockerfile().structure]
    stages = {value.split()[-1] for name, value in steps if name == "FROM" and " AS " in value}
    allowed = {
        p.removeprefix("!") for p in (ROOT / ".dockerignore").read_text().split() if p[0] == "!"
    }
    assert ("ARG", "LUMOS_BASE_IMAGE=python:3.11-slim-bookworm") in steps  # keeps moving
    sources = {value.split()[0] for name, value in steps if name == "FROM"}
    assert sources <= {"${LUMOS_BASE_IMAGE}", *stages}
    for name, value in steps:
        assert name != "ADD"
        if name == "COPY" and "--from" not in value:
            *files, _ = [word for word in value.split() if not word.startswith("--")]
            assert all((ROOT / file).exists() and file in allowed for file in files)
        if name in ("ARG", "ENV"):
            assert not re.search("secret|password|token|_key", value, re.IGNORECASE)
    last = [name for name, _ in steps][max(i for i, s in enumerate(steps) if s[0] == "FROM") :]
    assert "USER" in last
    assert [value for name, value in steps if name == "USER"] == ["49999:49999"]
    assert ("ENTRYPOINT", '["lumos"]') in steps


def test_packages_are_installed_before_the_code_is_copied() -> None:
    """So that a change of the code installs nothing again."""
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    packages = text.split(" AS packages")[1].split("\nFROM ")[0]
    assert "-r /names/packages.txt" in packages
    assert "COPY" not in packages
    final = text.split("\nFROM packages\n")[-1]
    assert "pip" not in final
    assert final.index("/opt/models") < final.index("COPY --from=code")


def test_the_versions_are_those_of_lock_file_and_makefile() -> None:
    text = (DOCKER / "Dockerfile").read_text("utf-8")
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    [setuptools] = re.findall(r"setuptools==\S+", text)
    assert setuptools in [line.split()[0] for line in lock if "==" in line]
    [pip] = re.findall(r"pip==\S+", text)
    assert f'"{pip}"' in (ROOT / "scripts/setup_venv.py").read_text()
    assert f"WEIGHTS := {load('package_names').LLM}\n" in (ROOT / "Makefile").read_text()


def load(name: str) -> ModuleType:
    """A program of the image, as a module."""
    spec = importlib.util.spec_from_file_location(f"docker_{name}", DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_packages_of_the_image(tmp_path: Path) -> None:
    load("package_names").main(ROOT, tmp_path / "names", "")
    packages = (tmp_path / "names/packages.txt").read_text()
    assert (tmp_path / "names/torch.txt").read_text().startswith("torch==")
    assert "flwr==1.39.0" in packages.splitlines()
    for left_out in ("simulation", "matplotlib", "bitsandbytes", "ray"):
        assert left_out not in packages
    load("package_names").main(ROOT, tmp_path / "more", "quantization plots")
    more = (tmp_path / "more/packages.txt").read_text()
    assert "bitsandbytes" in more
    assert "matplotlib" in more


def test_another_setting_of_the_project_changes_no_name(tmp_path: Path) -> None:
    """A key of a run, for example: the builder then installs nothing again."""
    (tmp_path / "requirements.lock").write_text((ROOT / "requirements.lock").read_text())
    text = (ROOT / "pyproject.toml").read_text("utf-8").replace("rounds = 20", "rounds = 21")
    (tmp_path / "pyproject.toml").write_text(text, "utf-8")
    for sources, out in ((ROOT, "a"), (tmp_path, "b")):
        load("package_names").main(sources, tmp_path / out, "")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


# ---------------------------------------------------------------- what fills the volumes
@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("init")
    monkeypatch.setattr(module, "VOLUMES", tmp_path / "init")
    monkeypatch.setattr(module, "PREPARED", tmp_path / "prepared")
    for name in ("server", *NODES):
        (tmp_path / "init" / name).mkdir(parents=True)
    return module


def test_volumes_are_what_server_and_nodes_expect(init: ModuleType, tmp_path: Path) -> None:
    assert "the bundled sample" in init.main(NODES)
    volumes = tmp_path / "init"
    kit = folders.ServerKit.read(volumes / "server/kit")
    assert kit.manifest.nodes == tuple(NODES)
    assert kit.manifest.superlink == "server:9092"  # the name of the service
    catalog = (volumes / "server/catalog.tsv").read_bytes()
    for node in NODES:
        bundle = folders.NodeBundle.read(volumes / node / "bundle", {"data": "/given/data"})
        assert bundle.config.name == node
        assert (volumes / node / "data/catalog.tsv").read_bytes() == catalog
        assert (volumes / node / "data/interactions.tsv").is_file()
    assert not list(volumes.rglob("ca.key"))
    from lumos_core.data.prepared_folder import prepared_noun

    assert prepared_noun(volumes / "server")  # the server finds what the items are


def test_volumes_are_filled_once(init: ModuleType, tmp_path: Path) -> None:
    init.main(NODES)
    before = {p: p.read_bytes() for p in (tmp_path / "init").rglob("*") if p.is_file()}
    assert "are there" in init.main(NODES)
    assert {p: p.read_bytes() for p in before} == before
    (tmp_path / "prepared").mkdir()
    with pytest.raises(ConfigError, match="down --volumes"):
        init.main(NODES)


def test_a_call_that_was_interrupted_is_done_again(
    init: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = init._put

    def interrupted(source: Path, target: Path) -> None:
        if target.name == "kit":
            raise KeyboardInterrupt
        put(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(init, "_put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            init.main(NODES)
    init.main(NODES)
    kit = folders.ServerKit.read(tmp_path / "init/server/kit")
    for node in NODES:  # keys of the second call, on both sides
        ca = tmp_path / "init" / node / "bundle/ca.crt"
        assert ca.read_bytes() == kit.ca.read_bytes()


def test_data_of_ones_own(init: ModuleType, tmp_path: Path) -> None:
    rows = [f"u{user}\ti{(user + step) % 9}\t{step}" for user in range(12) for step in range(6)]
    log = tmp_path / "log.tsv"
    log.write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows) + "\n")
    prepare(log, tmp_path / "prepared", nodes=2, seed=0, k_core=0)
    with pytest.raises(ConfigError, match="prepared for 2 nodes, expected 3"):
        init.main(NODES)
    init.main(NODES[:2])
    for node in NODES[:2]:
        found = (tmp_path / "init" / node / "data/interactions.tsv").read_bytes()
        assert found == (tmp_path / "prepared" / node / "interactions.tsv").read_bytes()


def test_a_catalog_artefact_goes_to_the_server_and_to_all_nodes(
    init: ModuleType, tmp_path: Path
) -> None:
    rows = [f"u{user}\ti{(user + step) % 9}\t{step}" for user in range(12) for step in range(6)]
    log = tmp_path / "log.tsv"
    log.write_text("user_id\titem_id\ttimestamp\n" + "\n".join(rows) + "\n")
    prepare(log, tmp_path / "prepared", nodes=2, seed=0, k_core=0)
    (tmp_path / "prepared/catalog.safetensors").write_bytes(b"what a model says")
    (tmp_path / "prepared/catalog.versions.json").write_bytes(b"the versions before")
    init.main(NODES[:2])
    versions = tmp_path / "init/server/catalog.versions.json"
    assert versions.read_bytes() == b"the versions before"
    for folder in ("server", *(f"{node}/data" for node in NODES[:2])):
        found = tmp_path / "init" / folder / "catalog.safetensors"
        assert found.read_bytes() == b"what a model says"


# ---------------------------------------------------------------- health
def healthcheck(*words: str) -> tuple[int, str]:
    command = [sys.executable, str(DOCKER / "healthcheck.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout.strip()


def test_a_node_is_healthy_while_the_server_accepts_it(tmp_path: Path) -> None:
    code, said = healthcheck("node", str(tmp_path))
    assert code == 1
    assert "not started" in said
    writer = ConnectionWriter(tmp_path)
    for state, expected in (("starting", 1), ("connected", 0), ("silent", 1), ("refused", 1)):
        writer.note(state)
        code, said = healthcheck("node", str(tmp_path))
        assert code == expected
        assert state in said or said == "healthy"


def test_a_server_that_does_not_answer_is_not_healthy(tmp_path: Path) -> None:
    folders.create(tmp_path / "deployment", ["server"], NODES, 9092, 30)
    with socket.create_server(("127.0.0.1", 0)):
        code, said = healthcheck("server", str(tmp_path / "deployment/server/ca.crt"))
    assert code == 1
    assert "does not answer" in said
