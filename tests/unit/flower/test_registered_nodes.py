"""nodes.json: by its old form and its new one."""

import json
from pathlib import Path

import pytest

from lumos_core.errors import DataError, NewerFileError
from lumos_core.flower.registered_nodes import RegisteredNode, RegisteredNodes

OLD = """{
  "north": {
    "id": "18446744073709551615",
    "key": "ab12"
  },
  "south": {
    "id": "7",
    "key": "cd34"
  }
}
"""
"""As it was written before there were schema versions: the nodes alone."""


def test_the_old_form_is_read_and_the_new_one_written(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(OLD)
    found = RegisteredNodes.read(path)
    assert found.nodes["south"] == RegisteredNode(id="7", key="cd34")
    assert found.names() == {2**64 - 1: "north", 7: "south"}
    found.write(path)
    assert json.loads(path.read_text()) == {"schema_version": 2, "nodes": json.loads(OLD)}
    assert RegisteredNodes.read(path) == found


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    path.write_text('{"schema_version": 3, "nodes": {}}')
    with pytest.raises(NewerFileError, match=r"nodes\.json: has schema version 3.*versions 1 to 2"):
        RegisteredNodes.read_if_sound(path)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"a": 3}', '{"a": {"id": 7, "key": "k"}}', '{"a": {"id": "x", "key": "k"}}',
     '{"a": {"id": "7"}}', '{"a": {"id": "7", "key": "k", "more": 1}}',
     '{"schema_version": 2, "nodes": []}'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"nodes\.json: .*start the server again"):
        RegisteredNodes.read(path)
    assert RegisteredNodes.read_if_sound(path) is None
