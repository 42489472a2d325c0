"""nodes.json: by its old form and its new one."""

import json
from pathlib import Path

import pytest

from lumos_core.errors import DataError, NewerFileError
from lumos_core.flower.registered_nodes import LiveNames, RegisteredNode, RegisteredNodes

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


def test_names_are_those_that_the_file_has_now(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    with pytest.raises(DataError, match=r"nodes\.json: cannot be read"):
        LiveNames(path)
    north, south = (RegisteredNode(id=text, key="k") for text in ("7", "8"))
    RegisteredNodes(nodes={"north": north}).write(path)
    names = LiveNames(path)
    assert dict(names) == {7: "north"}
    RegisteredNodes(nodes={"north": north, "south": south}).write(path)
    assert (names.get(8), len(names)) == ("south", 2)
    RegisteredNodes(nodes={"north": south}).write(path)  # another key, so another id
    assert names == {8: "north"}


@pytest.mark.parametrize("damage", ["{", '{"schema_version": 3}', None])
def test_a_file_that_cannot_be_read_for_a_moment_changes_nothing(
    tmp_path: Path, damage: str | None
) -> None:
    path = tmp_path / "nodes.json"
    RegisteredNodes(nodes={"north": RegisteredNode(id="7", key="k")}).write(path)
    names = LiveNames(path)
    path.unlink() if damage is None else path.write_text(damage)
    assert names == {7: "north"}
    RegisteredNodes(nodes={"south": RegisteredNode(id="8", key="k")}).write(path)
    assert names == {8: "south"}
