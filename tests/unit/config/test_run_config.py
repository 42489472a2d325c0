"""Configurations: flat mappings in and out, and errors that name the key."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from lumos_core.config import NodeConfig, RunConfig, first_difference, fixed
from lumos_core.config.older_runs import ADDED_LATER
from lumos_core.errors import ConfigError

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_defaults_are_valid_and_come_back() -> None:
    config = RunConfig()
    assert RunConfig.from_flat({}) == config
    assert RunConfig.from_flat(config.to_flat()) == config


def test_flat_keys_are_kebab_case_scalars() -> None:
    """Flower's configuration knows nothing else."""
    for config in (RunConfig(), NodeConfig(data="d")):
        flat = config.to_flat()
        assert all(key == key.lower() and "_" not in key for key in flat)
        assert all(isinstance(value, str | int | float | bool) for value in flat.values())


def test_the_apps_metadata_has_every_key_with_its_default() -> None:
    """Flower refuses to override a key that pyproject.toml does not name."""
    metadata = tomllib.loads(PYPROJECT.read_text())["tool"]["flwr"]["app"]["config"]
    assert metadata == RunConfig().to_flat()
    for key, value in RunConfig().to_flat().items():
        assert type(metadata[key]) is type(value), key


def test_replace_validates() -> None:
    assert RunConfig().replace(max_len=7, seed=3).max_len == 7
    assert RunConfig().max_len == 50
    with pytest.raises(ConfigError, match="key 'max-len'"):
        RunConfig().replace(max_len=0)
    with pytest.raises(ConfigError, match="unknown key 'max-length'"):
        RunConfig().replace(max_length=3)


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().rounds = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"round": 3}, r"unknown key 'round' \(did you mean 'rounds'\?\)"),
        ({"local_epoch": 3}, r"unknown key 'local_epoch' \(did you mean 'local-epochs'\?\)"),
        ({"xyz": 3}, r"unknown key 'xyz'$"),
        ({"method": "fedprox"}, r"key 'method': found 'fedprox', but .*'lumos'"),
        ({"rounds": "many"}, r"key 'rounds': found 'many', but .*integer"),
        ({"rounds": 2.5}, r"key 'rounds': found 2.5"),
        ({"rounds": None}, r"key 'rounds': found None"),
        ({"learning-rate": "fast"}, r"key 'learning-rate': found 'fast', but .*number"),
        ({"use-future": "perhaps"}, r"key 'use-future': found 'perhaps', but .*boolean"),
        ({"method": 3}, r"key 'method': found 3"),
        ({"dim": 63}, r"dim = 63 must be a multiple of heads = 2"),
        ({"min-replies": 3}, r"min-replies = 3 can never be met with min-nodes = 2"),
        (
            {"use-future": False, "use-paraphrase": False},
            r"use-future and use-paraphrase are both false",
        ),
    ],
)
def test_errors_name_key_value_and_expectation(flat: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_flat(flat)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 2**31),
        ("rounds", 0),
        ("dim", 0),
        ("max-len", 1),
        ("max-len", 100_000),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("learning-rate", 0.0),
        ("learning-rate", float("inf")),
        ("learning-rate", float("nan")),
        ("weight-decay", -1e-9),
        ("grad-clip", 0.0),
        ("temperature", 0.0),
        ("contrastive-weight", -0.1),
        ("contrastive-weight", float("nan")),
        ("fraction", 0.0),
        ("fraction", 1.01),
        ("min-nodes", 0),
        ("min-replies", 0),
        ("round-timeout", 0.0),
        ("round-timeout", float("inf")),
        ("patience", -1),
        ("server-momentum", 1.0),
        ("max-delta-norm", 0.0),
        ("aggregation", "average"),
        ("weighting", ""),
        ("delta-codec", "int4"),
        ("server-optimizer", "SGD"),
        ("llm-quantization", "2bit"),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"key '{key}': found "):
        RunConfig.from_flat({key: value})


def test_every_error_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_flat({"rounds": 0, "dropout": 2.0, "nodes": 3})
    for part in ("'rounds'", "'dropout'", "'nodes'"):
        assert part in str(caught.value)


def test_without_contrast_no_view_is_needed() -> None:
    config = RunConfig.from_flat(
        {"use-future": False, "use-paraphrase": False, "contrastive-weight": 0.0}
    )
    assert config.contrastive_weight == 0


# ---------------------------------------------------------------- nodes
def test_a_node_needs_its_data() -> None:
    with pytest.raises(ConfigError, match="key 'data' is required"):
        NodeConfig.from_flat({})


def test_flowers_own_keys_are_known() -> None:
    node = NodeConfig.from_flat({"data": "d", "partition-id": 3, "num-partitions": 8})
    assert (node.partition_id, node.num_partitions) == (3, 8)


@pytest.mark.parametrize("name", ["", "-a", "../a", "a b", "a\nb", "ä", "x" * 65, ".", "a/b"])
def test_names_that_could_do_harm_in_logs_and_paths_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="key 'name'"):
        NodeConfig.from_flat({"data": "d", "name": name})


@pytest.mark.parametrize("name", ["node-0", "A", "7", "shop_12.berlin", "x" * 64])
def test_plain_names_are_fine(name: str) -> None:
    assert NodeConfig.from_flat({"data": "d", "name": name}).name == name


def test_a_run_from_before_a_key_existed_is_still_the_same_run() -> None:
    now = RunConfig()
    flat = {k: v for k, v in now.to_flat().items() if k not in ADDED_LATER}
    saved = RunConfig.from_saved(flat)
    assert (saved.encoder, saved.title_weights, saved.trains_met_rows) == ("sasrec", (0.0,), False)
    assert fixed(saved.to_flat()) == fixed(flat)
    assert first_difference(saved.to_flat(), now.to_flat()) in ADDED_LATER
    assert RunConfig.from_saved(now.to_flat()) == now


@pytest.mark.parametrize("weight", [-0.5, -2.0, 11.0])
def test_impossible_weights_of_titles_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="title-weight"):
        RunConfig.from_flat({"title-weight": weight})


def test_noise_for_users_hides_which_rows_were_met() -> None:
    with pytest.raises(ConfigError, match=r"dp = user hides .* choose item-rows = all or auto"):
        RunConfig.from_flat({"dp": "user", "item-rows": "met"})
    assert not RunConfig.from_flat({"dp": "user"}).trains_met_rows
