"""dataset.json and node.json: older ones are read, newer ones refused, damaged ones named."""

import json
from pathlib import Path

import pytest

from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import (
    DATASET_FILE,
    NODE_FILE,
    DatasetFacts,
    NodeFacts,
    node_folders,
    prepared_noun,
    read_dataset_facts,
)
from lumos_core.data.sample import bundled_sample
from lumos_core.errors import DataError, NewerFileError

OLD_DATASET = """{
  "name": "Größen",
  "domain": "films",
  "seed": 3,
  "nodes": 2,
  "partition": "even",
  "k-core": 5,
  "dedup": "latest",
  "users": 40,
  "items": 30,
  "interactions": 400,
  "catalog-fingerprint": "2:abc"
}
"""
OLD_NODE = """{
  "node": 1,
  "users": 20,
  "interactions": 200,
  "domain": "films",
  "catalog-fingerprint": "2:abc"
}
"""


def test_files_of_before_there_were_versions_are_read(tmp_path: Path) -> None:
    (tmp_path / DATASET_FILE).write_text(OLD_DATASET, "utf-8")
    assert read_dataset_facts(tmp_path) == DatasetFacts(
        name="Größen", domain="films", seed=3, nodes=2, partition="even", k_core=5, dedup="latest",
        users=40, items=30, interactions=400, catalog_fingerprint="2:abc",
    )  # fmt: skip
    assert [folder.name for folder in node_folders(tmp_path)] == ["node-0", "node-1"]
    assert prepared_noun(tmp_path) == "films watched by a viewer"
    node = tmp_path / "node"
    node.mkdir()
    (node / NODE_FILE).write_text(OLD_NODE)
    assert prepared_noun(node) == "films watched by a viewer"
    assert NodeFacts.read(node / NODE_FILE) == NodeFacts(
        node=1, users=20, interactions=200, domain="films", catalog_fingerprint="2:abc"
    )


def test_what_is_written_has_the_old_keys_and_a_version(tmp_path: Path) -> None:
    prepare(bundled_sample(), tmp_path, nodes=2, domain="books")
    for path, old in ((DATASET_FILE, OLD_DATASET), (f"node-0/{NODE_FILE}", OLD_NODE)):
        written = json.loads((tmp_path / path).read_text())
        assert list(written) == ["schema_version", *json.loads(old)]
        assert (written["schema_version"], written["domain"]) == (1, "books")


def test_newer_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / NODE_FILE).write_text('{"schema_version": 2}')
    with pytest.raises(NewerFileError, match=r"node\.json: has schema version 2"):
        prepared_noun(tmp_path)
    (tmp_path / DATASET_FILE).write_text('{"schema_version": 2, "nodes": ["a", "b"]}')
    for read in (node_folders, prepared_noun):
        with pytest.raises(NewerFileError, match=r"dataset\.json: has schema version 2"):
            read(tmp_path)


def test_keys_of_a_newer_minor_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / DATASET_FILE).write_text('{"schema_version": 1, "nodes": 1, "licence": "CC0"}')
    assert len(node_folders(tmp_path)) == 1
    assert prepared_noun(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "key 'nodes' is missing; prepare the data again"),
        ('{"nodes": 0}', "key 'nodes': found 0, expected greater than or equal to 1; prepare"),
        ('{"nodes": true}', "key 'nodes': found True, expected a whole number; prepare"),
        ('{"nodes": 1, "k-core": "x"}', "key 'k-core': found 'x', expected a whole number"),
        ("", "empty"),
    ],
)
def test_damage_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / DATASET_FILE).write_text(text)
    with pytest.raises(DataError, match=rf"dataset\.json: .*{message}"):
        node_folders(tmp_path)
