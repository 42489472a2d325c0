"""What a node's owner approves: a list in ``node.toml``, a text on the command line."""

import pytest

from lumos_core.config import APPROVED_APPS, NodeConfig
from lumos_core.errors import ConfigError

ONE, TWO = "0" * 64, "9f" * 32


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], ""), ("", ""), ([ONE], ONE), ([ONE, TWO], f"{ONE},{TWO}"), (ONE, ONE),
        (f"{ONE}, {TWO}", f"{ONE},{TWO}"),
    ],
)  # fmt: skip
def test_digests_are_kept_as_a_text(given: object, kept: str) -> None:
    config = NodeConfig.from_flat({"data": "d", APPROVED_APPS: given})
    assert config.approved_apps == kept
    assert NodeConfig.from_flat(config.to_flat()) == config


@pytest.mark.parametrize(
    "given", ["lumos", [ONE[:-1]], [ONE.upper().replace("0", "A")], [7], 7, 0, False, None, [""]]
)
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises(ConfigError, match=r"key 'approved-apps': .* 64 characters 0-9 and a-f"):
        NodeConfig.from_flat({"data": "d", APPROVED_APPS: given})
