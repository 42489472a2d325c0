"""What ships with LUMOS about the bundled catalog: used if whole, else computed anew."""

from pathlib import Path

import numpy as np
import pytest

from lumos_core.views.titles.shipped import DIGEST, STAGE, seed_cache, write_shipped


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    arrays = {"vectors": np.ones((2, 3), np.float32), "prior": np.zeros(2, np.float32)}
    (tmp_path / "shipped").mkdir()
    write_shipped(tmp_path / "shipped", arrays, {"vectors": "a.safetensors", "prior": "b.safetens"})
    return tmp_path / "shipped"


def test_whole_files_fill_a_cache_once(shipped: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert seed_cache(cache, shipped)
    filled = {path.name: path.stat().st_mtime_ns for path in (cache / "catalogs").iterdir()}
    assert filled.keys() >= {"a.safetensors", "b.safetens"}
    assert seed_cache(cache, shipped)
    assert filled == {path.name: path.stat().st_mtime_ns for path in (cache / "catalogs").iterdir()}


@pytest.mark.parametrize("damage", ["changed", "cut short"])
def test_a_damaged_file_is_told_of_and_not_used(
    shipped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    content = (shipped / STAGE).read_bytes()
    (shipped / STAGE).write_bytes(content[:-1] + (b"?" if damage == "changed" else b""))
    assert not seed_cache(tmp_path / "cache", shipped)
    assert not (tmp_path / "cache").exists()
    assert f"{STAGE} is damaged" in caplog.text


@pytest.mark.parametrize("name", [STAGE, DIGEST])
def test_missing_files_are_no_error(shipped: Path, tmp_path: Path, name: str) -> None:
    """Flower sends nodes the apps' code alone."""
    (shipped / name).unlink()
    assert not seed_cache(tmp_path / "cache", shipped)


def test_an_empty_digest_is_no_error(shipped: Path, tmp_path: Path) -> None:
    (shipped / DIGEST).write_text("")
    assert not seed_cache(tmp_path / "cache", shipped)
