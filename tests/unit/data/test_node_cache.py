"""Histories that are kept between the processes of a node."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

from lumos_core.data import node_cache, node_folder
from lumos_core.data.node_cache import KEPT, read_kept_node
from lumos_core.errors import DataError

LOG = "user_id\titem_id\ttimestamp\nü\ta\t1\nü\tb\t2\nü\ta\t3\nv w\tb\t1\nv w\tb\t2\nv w\ta\t3\n"


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "catalog.tsv").write_text("item_id\ttitle\na\tApple\nb\tBread\n")
    (data / "interactions.tsv").write_text(LOG)
    return data


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def same(one, other):
    assert one[0].fingerprint == other[0].fingerprint
    assert one[1].user_ids == other[1].user_ids
    for name in ("items", "offsets"):
        np.testing.assert_array_equal(getattr(one[1], name), getattr(other[1], name))
        assert getattr(one[1], name).dtype == getattr(other[1], name).dtype


def refuse(*_):
    raise AssertionError("the tables were read")


def test_read_once_and_then_kept(folder, state, monkeypatch):
    expected = node_folder.read_node(folder)
    same(read_kept_node(folder, state), expected)
    assert (state / KEPT).stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(node_folder, "read_node", refuse)
    same(read_kept_node(folder, state), expected)


def test_what_was_kept_needs_no_polars(folder, state):
    code = (
        "import sys; from pathlib import Path;"
        "from lumos_core.data.node_cache import read_kept_node;"
        f"read_kept_node(Path({str(folder)!r}), Path({str(state)!r}));"
        "print('polars' in sys.modules)"
    )
    found = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(2)]
    assert found == ["True\n", "False\n"]


@pytest.mark.parametrize("changed", ["interactions.tsv", "catalog.tsv", "suffix"])
def test_changed_data_are_read_again(folder, state, changed):
    read_kept_node(folder, state)
    log = folder / "interactions.tsv"
    if changed == "interactions.tsv":
        log.write_text(LOG.replace("ü\ta\t3", "ü\tb\t3"))
    elif changed == "catalog.tsv":  # the same items, other indices
        (folder / "catalog.tsv").write_text("item_id\ttitle\nb\tBread\na\tApple\n")
    else:
        (folder / "interactions.tsv.gz").write_bytes(gzip.compress(LOG.encode()))
        log.unlink()
    same(read_kept_node(folder, state), node_folder.read_node(folder))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_a_damaged_file_is_read_again_and_replaced(folder, state, damage, monkeypatch):
    expected = read_kept_node(folder, state)
    (state / KEPT).write_bytes(damage)
    same(read_kept_node(folder, state), expected)
    monkeypatch.setattr(node_folder, "read_node", refuse)
    same(read_kept_node(folder, state), expected)


def test_a_flipped_bit_is_noticed(folder, state):
    expected = read_kept_node(folder, state)
    whole = bytearray((state / KEPT).read_bytes())
    for place in range(0, len(whole), 37):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        (state / KEPT).write_bytes(flipped)
        same(read_kept_node(folder, state), expected)


def test_another_version_reads_again(folder, state, monkeypatch):
    read_kept_node(folder, state)
    monkeypatch.setattr(node_cache, "__version__", "0.0.0")
    monkeypatch.setattr(node_folder, "read_node", refuse)
    with pytest.raises(AssertionError, match="tables were read"):
        read_kept_node(folder, state)


def test_a_full_disk_costs_time_only(folder, state, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node_cache, "replacing", full)
    same(read_kept_node(folder, state), node_folder.read_node(folder))
    assert "could not be kept (OSError)" in caplog.text


def test_the_count_of_users_left_out_is_kept(folder, state, monkeypatch):
    (folder / "interactions.tsv").write_text(LOG + "x\ta\t1\ny\tb\t1\n")
    assert read_kept_node(folder, state)[1].left_out == 2
    monkeypatch.setattr(node_folder, "read_node", refuse)
    _, sequences = read_kept_node(folder, state)
    assert (sequences.user_ids, sequences.left_out) == (("v w", "ü"), 2)


def test_errors_are_those_of_reading(folder, state):
    read_kept_node(folder, state)
    (folder / "interactions.tsv").write_text(LOG + "x\tz\t1\n")
    with pytest.raises(DataError, match=r"interactions\.tsv: line 8: unknown item 'z'"):
        read_kept_node(folder, state)
    with pytest.raises(DataError, match="no such folder"):
        read_kept_node(folder / "nope", state)
