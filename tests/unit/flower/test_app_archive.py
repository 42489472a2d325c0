"""The digest of an app, and archives that are refused before they are unpacked."""

import hashlib
import subprocess
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_disk

from lumos_core import __version__
from lumos_core.config import RunConfig
from lumos_core.flower import app_archive, commands
from lumos_core.flower.app_archive import PROJECT, BadArchiveError, digest, read, write

PLAIN = {PROJECT: b'[project]\nname = "a"\n', "a/client.py": b"app = 1\n"}


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of any paths."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content, method)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def fab(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The app as Flower sends it."""
    return build_fab_from_disk(commands.stage_app(tmp_path_factory.mktemp("fab") / "app"))


def test_what_flower_sends_of_this_lumos_has_the_digest_of_the_installed_one(fab: bytes) -> None:
    sent, installed = read(fab), commands.app_files()
    assert sent.keys() == installed.keys()
    assert digest(sent) == digest(installed) == commands.app_digest()
    assert app_archive.differences(sent, installed) == []


def test_every_file_and_its_path_count(fab: bytes) -> None:
    files = read(fab)
    before = digest(files)
    for path, content in files.items():
        if path != PROJECT:
            assert digest({**files, path: content + b"\n"}) != before, path
    assert digest({**files, "torch.py": b""}) != before
    assert digest({path: c for path, c in files.items() if path != "client_app/__init__.py"}) != (
        before
    )
    moved = {**files, "client_app/other.py": files["client_app/client.py"]}
    del moved["client_app/client.py"]
    assert digest(moved) != before


def test_of_the_project_all_counts_but_the_defaults_of_keys() -> None:
    files = commands.app_files()
    metadata = commands.app_metadata({"evil": "yes"})
    assert digest({**files, PROJECT: tomli_w.dumps(metadata).encode()}) == digest(files)
    for change in ({"version": __version__ + "1"}, {"name": "other"}):
        own = {**metadata, "project": {**metadata["project"], **change}}  # type: ignore[dict-item]
        assert digest({**files, PROJECT: tomli_w.dumps(own).encode()}) != digest(files)
    agent = commands.app_metadata(RunConfig().to_flat())
    agent["tool"]["flwr"]["app"]["components"]["agentapp"] = "client_app.agent:app"  # type: ignore[index]
    assert digest({**files, PROJECT: tomli_w.dumps(agent).encode()}) != digest(files)


def test_it_is_what_sha256sum_makes_of_the_files(tmp_path: Path) -> None:
    """As the module describes it, so that an owner can compute it without LUMOS."""
    files = {**PLAIN, "a/b.py": b"", "B.py": b"x"}
    app_archive.write_files({**files, PROJECT: b'{"project": {"name": "a"}}'}, tmp_path)
    lines = subprocess.run(
        ["sha256sum", *sorted(files)], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    assert digest(files) == hashlib.sha256(lines).hexdigest()


def test_an_archive_is_read_as_it_was_written() -> None:
    assert read(write(PLAIN)) == PLAIN
    assert write(dict(reversed(PLAIN.items()))) == write(PLAIN)


BAD = {
    "no archive": (b"nothing", "cannot be unpacked"),
    "too large": (b"\0" * (app_archive.MOST_BYTES + 1), "at most 10485760 are allowed"),
    "a bomb": (
        zipped({**PLAIN, "a/bomb.py": b"\0" * (app_archive.MOST_UNPACKED + 1)}),
        "when unpacked",
    ),
    "many files": (
        zipped({**PLAIN, **{f"a/{n}.py": b"" for n in range(app_archive.MOST_FILES)}}),
        "files, at most 5000",
    ),
    "a path out of the app": (zipped({**PLAIN, "a/../../b.py": b""}), "leads out"),
    "an absolute path": (zipped({**PLAIN, "/etc/b.py": b""}), "absolute"),
    "a folder": (zipped({**PLAIN, "torch/": b""}), "folder"),
    "a line in a path": (zipped({**PLAIN, "a\n0  b.py": b""}), "characters"),
    "a backslash": (zipped({**PLAIN, "a\\b.py": b""}), "characters"),
    "other letters": (zipped({**PLAIN, "а/client.py": b""}), "characters"),
    "two files of one name": (zipped({**PLAIN, "A/Client.py": b""}), "the same path"),
    "a file that is a folder": (zipped({**PLAIN, "a": b""}), "a file and of a folder"),
    "something beside the list": (zipped({**PLAIN, ".info/x.py": b""}), "list of files"),
    "no project": (zipped({"a/client.py": b""}), "no pyproject.toml"),
    "another compression": (zipped(PLAIN, zipfile.ZIP_LZMA), "compressed in another way"),
    "a flipped bit": (write(PLAIN).replace(b"app = 1", b"app = 2"), "BadZipFile"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused(name: str) -> None:
    archive, reason = BAD[name]
    with pytest.raises(BadArchiveError, match=reason):
        read(archive)


@pytest.mark.parametrize("project", [b"\xff", b"= 1", b"tool = 1", b"a = " + b"[" * 5000])
def test_a_bad_project_is_refused(project: bytes) -> None:
    with pytest.raises(BadArchiveError, match=r"pyproject\.toml cannot be read"):
        digest({**PLAIN, PROJECT: project})


def test_differences_are_named() -> None:
    changed = {**PLAIN, "a/client.py": b"app = 2\n", "torch.py": b""}
    changed[PROJECT] += b'[tool.flwr.app]\npublisher = "x"\n[tool.flwr.app.config]\nrounds = 1\n'
    assert app_archive.differences(changed, PLAIN) == [
        "a/client.py differs", "pyproject.toml differs", "torch.py is added"
    ]  # fmt: skip
    assert app_archive.differences({PROJECT: PLAIN[PROJECT]}, PLAIN) == ["a/client.py is missing"]
