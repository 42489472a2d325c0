"""Protocols decide who works together; everything else that differs is named with what to do."""

from dataclasses import replace

import pytest

from lumos_core.wire import versions
from lumos_core.wire.versions import OLDEST, PROTOCOL, OtherProtocolError, Versions

SERVER = Versions("0.3.0", PROTOCOL, "1.39.0", "3.12")


def test_a_node_tells_its_own_versions() -> None:
    found = versions.own()
    assert Versions.of(found.to_info()) == found
    assert found.protocol == PROTOCOL
    assert versions.problem_with(found) == versions.skew_of(found) == ""


@pytest.mark.parametrize(
    ("protocol", "works"),
    [(PROTOCOL - 1, True), (PROTOCOL, True), (PROTOCOL + 1, True), (PROTOCOL + 2, False),
     (PROTOCOL - 2, False), (-1, False)],
)  # fmt: skip
def test_protocols_that_are_one_apart_work_together(protocol: int, works: bool) -> None:
    node = replace(SERVER, protocol=protocol)
    assert versions.can_serve(node) is works
    assert (versions.problem_with(node, SERVER) == "") is works


def test_the_release_number_decides_nothing() -> None:
    for release in ("0.0.1", "9.9", "unknown"):
        assert versions.can_serve(replace(SERVER, lumos=release))


def test_a_node_of_the_release_before_the_handshake_has_protocol_0() -> None:
    old = Versions.of({"name": "north", "users": "12", "version": "0.1.0"})
    assert (old.lumos, old.protocol) == ("0.1.0", 0)
    assert versions.can_serve(old)
    assert versions.spoken_with(old) == 0


def test_the_older_of_two_protocols_is_spoken() -> None:
    assert versions.spoken_with(replace(SERVER, protocol=PROTOCOL + 1)) == PROTOCOL
    assert versions.spoken_with(replace(SERVER, protocol=PROTOCOL - 1)) == PROTOCOL - 1


def test_a_node_refuses_what_it_does_not_speak() -> None:
    for protocol in (OLDEST, PROTOCOL):
        versions.check_spoken(protocol)
    with pytest.raises(OtherProtocolError, match=f"speaks protocol {PROTOCOL + 1}, this node has"):
        versions.check_spoken(PROTOCOL + 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"lumos": "0.2.0", "protocol": PROTOCOL - 2},
            "install on the node: pip install lumos==0.3.0",
        ),
        (
            {"lumos": "0.5.0", "protocol": PROTOCOL + 2},
            "install LUMOS 0.5.0 on the server, or on the node: pip install lumos==0.3.0",
        ),
    ],
)
def test_a_problem_says_what_to_install(changes: dict[str, object], told: str) -> None:
    node = replace(SERVER, **changes)  # type: ignore[arg-type]
    found = versions.problem_with(node, SERVER)
    assert f"it has LUMOS {node.lumos}" in found
    assert "this server has LUMOS 0.3.0" in found
    assert found.endswith(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lumos": "0.2.9"}, "it has LUMOS 0.2.9 (here 0.3.0); install on the node: pip install "
         "lumos==0.3.0"),
        ({"lumos": "0.2.10", "flower": "1.38.0"}, "it has LUMOS 0.2.10 (here 0.3.0), Flower 1.38.0 "
         "(here 1.39.0); install on the node: pip install lumos==0.3.0 flwr==1.39.0"),
        ({"lumos": "0.10.0"}, "it has LUMOS 0.10.0 (here 0.3.0); install LUMOS 0.10.0 on the "
         "server, or on the node: pip install lumos==0.3.0"),
        ({"python": "3.11"}, "it has Python 3.11 (here 3.12); Python 3.12 on the node would make "
         "both equal"),
    ],
)  # fmt: skip
def test_mere_skew_is_named(changes: dict[str, str], told: str) -> None:
    node = replace(SERVER, **changes)  # type: ignore[arg-type]
    assert versions.problem_with(node, SERVER) == ""
    assert versions.skew_of(node, SERVER) == told


def test_what_a_node_claims_cannot_become_a_command() -> None:
    claims = {"version": "1; rm -rf /", "protocol": "1\n", "flower": "[red]", "python": "9" * 99}
    found = Versions.of(claims)
    assert found == Versions("unknown", -1, "unknown", "unknown")
    assert "rm" not in versions.problem_with(found, SERVER)
