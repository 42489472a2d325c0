"""Nodes chosen by name, pattern or tag."""

import pytest

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.config.node_choice import NodeChoice, claimed_tags
from lumos_core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("", ["north", "shop-1", "shop-2", "south"]),
        ("  ", ["north", "shop-1", "shop-2", "south"]),
        ("north", ["north"]),
        ("shop-*", ["shop-1", "shop-2"]),
        ("shop-?,south", ["shop-1", "shop-2", "south"]),
        ("tag:eu", ["north", "shop-1"]),
        ("tag:eu, south", ["north", "shop-1", "south"]),
        ("tag:large,tag:eu", ["north", "shop-1", "shop-2"]),
        ("NORTH", []),
        ("eu", []),
        ("tag:e", []),
    ],
)
def test_who_is_chosen(text: str, taken: list[str]) -> None:
    nodes = {"north": ("eu",), "shop-1": ("eu", "large"), "shop-2": ("large",), "south": ()}
    choice = NodeChoice.of(text)
    assert [name for name, tags in nodes.items() if choice.takes(name, tags)] == taken


@pytest.mark.parametrize(
    "text", ["a b", "tag:", "tag:EU", "tag:eu*", ",", "north,", "[a-z]", "../x", "tag:" + "x" * 25]
)
def test_what_is_no_choice_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"nodes = .* is neither a node's name or a pattern"):
        RunConfig.from_flat({"nodes": text})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], ""), ("", ""), (["eu"], "eu"), (["eu", "a.b_c-1", "eu"], "a.b_c-1,eu"),
        ("eu, big", "big,eu"),
    ],
)  # fmt: skip
def test_tags_are_kept_as_a_text(given: object, kept: str) -> None:
    config = NodeConfig.from_flat({"data": "d", "tags": given})
    assert config.tags == kept
    assert NodeConfig.from_flat(config.to_flat()) == config


@pytest.mark.parametrize(
    "given",
    [["EU"], ["e u"], [7], 7, None, ["-x"], ["x" * 25], [f"t{n}" for n in range(9)], ["e\nu"]],
)
def test_other_tags_are_refused_by_name(given: object) -> None:
    with pytest.raises(ConfigError, match=r"key 'tags': .* at most 8 words"):
        NodeConfig.from_flat({"data": "d", "tags": given})


@pytest.mark.parametrize("text", ["EU", "eu\x1b[2J", "x" * 300, ",".join("abcdefghi"), ""])
def test_impossible_claims_count_as_no_tags(text: str) -> None:
    assert claimed_tags(text) == ()


def test_claims_are_read() -> None:
    assert claimed_tags("eu,large") == ("eu", "large")
