"""config.json of a run: older ones are read, newer ones refused, other programs' left alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError, DataError, NewerFileError
from lumos_core.runs.folder import read_config, write_config
from lumos_core.runs.saved_config import CONFIG, SavedConfig
from lumos_core.runs.status import status_of

Tiny = Callable[..., RunConfig]
OLD = """{
  "run": {"method": "fedavg", "seed": 3, "rounds": 5, "catalog": "/c.tsv", "min-nodes": 2,
          "min-replies": 2, "dim": 16, "heads": 2},
  "nodes": {"node-0": {"name": "node-0", "data": "/d", "threads": 1}}
}
"""
"""As it was written before there were schema versions, with a few keys only."""


def test_a_configuration_of_before_there_were_versions_is_read(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(OLD)
    expected = RunConfig(
        method="fedavg", seed=3, rounds=5, catalog="/c.tsv", min_nodes=2, min_replies=2, dim=16,
        heads=2, title_weight=0.0, item_rows="all",
        item_bias="none",
    )  # fmt: skip
    assert read_config(tmp_path) == expected
    assert SavedConfig.read(tmp_path / CONFIG).nodes["node-0"]["threads"] == 1


def test_what_is_written_has_the_old_keys_and_a_version(tmp_path: Path, tiny: Tiny) -> None:
    config = tiny(catalog="/c.tsv")
    write_config(tmp_path, config, {"nodes": 3, "data": "/d"})
    assert json.loads((tmp_path / CONFIG).read_text()) == {
        "schema_version": 1, "run": config.to_flat(), "nodes": {"nodes": 3, "data": "/d"}
    }  # fmt: skip
    assert read_config(tmp_path) == config


def test_a_newer_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text('{"schema_version": 2, "run": "elsewhere"}')
    for read in (read_config, status_of):
        with pytest.raises(NewerFileError, match=r"config\.json: has schema version 2"):
            read(tmp_path)


def test_keys_of_a_newer_minor_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({**json.loads(OLD), "host": "a"}))
    assert read_config(tmp_path) is not None


def test_status_does_not_take_another_program_s_file_for_a_damaged_one(tmp_path: Path) -> None:
    """An exported model has a config.json, too."""
    (tmp_path / CONFIG).write_text('{"format": "lumos-sasrec-1", "config": {}}')
    with pytest.raises(DataError, match="expected the folder of a run"):
        status_of(tmp_path)
    with pytest.raises(ConfigError, match="found null, expected a JSON object whose key 'run'"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ('{"run": 3}', "found 3, expected a JSON object")]
)
def test_status_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ConfigError, match=rf"{message}.*; the file is damaged"):
        status_of(tmp_path)
