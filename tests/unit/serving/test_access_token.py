"""Who may ask a service."""

import stat
from pathlib import Path

import pytest

from lumos_core.errors import ConfigError
from lumos_core.serving.access_token import TOKEN_FILE, Access

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_token(tmp_path: Path, host: str) -> None:
    access = Access.of(host, None, tmp_path / "state")
    assert not access.token
    assert access.admits(b"")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "shop.example", "127.0.0.1.example"])
def test_any_other_address_gets_a_token_and_keeps_it(tmp_path: Path, host: str) -> None:
    state = tmp_path / "state"
    first, second = (Access.of(host, None, state) for _ in range(2))
    assert first.token == second.token
    assert len(first.token) >= 32
    assert first.origin == state / TOKEN_FILE
    assert stat.S_IMODE((state / TOKEN_FILE).stat().st_mode) == 0o600
    assert not first.admits(b"")
    assert first.admits(f"Bearer {first.token}".encode())
    assert Access.of(host, None, tmp_path / "other").token != first.token


def test_a_given_token_counts_everywhere(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    access = Access.of("127.0.0.1", tmp_path / "token", tmp_path)
    assert access.admits(f"bearer {TOKEN}".encode())
    wrong = (TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", "")
    assert [access.admits(header.encode()) for header in wrong] == [False] * 6


@pytest.mark.parametrize("content", [b"short", b"two words are no token", b"\xff" * 20, b""])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{path}: .*expected"):
        Access.of("127.0.0.1", path, tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        Access.of("0.0.0.0", path, tmp_path)


def test_without_a_token_only_names_of_this_machine_are_known() -> None:
    access = Access("127.0.0.1")
    known = (b"", b"localhost", b"localhost:8080", b"127.0.0.1:1", b"[::1]:8080", b"[::1]")
    assert [access.knows_host(header) for header in known] == [True] * 6
    foreign = (b"evil.example", b"evil.example:8080", b"127.0.0.1.evil.example", b"10.0.0.1:80")
    assert [access.knows_host(header) for header in foreign] == [False] * 4
    assert Access("10.0.0.1", TOKEN).knows_host(b"shop.example")
