"""Secure rounds from the node's side: what it refuses, what it keeps, what it forgets."""

import json
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation_fakes import start
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lumos_core.config import RunConfig
from lumos_core.errors import ModelError, NewerFileError, RefusalError, ReplyError
from lumos_core.flower.cryptography import FLOWER
from lumos_core.privacy import mechanisms, noise
from lumos_core.privacy.secure_aggregation import masks
from lumos_core.privacy.secure_aggregation.encoding import Encoding
from lumos_core.privacy.secure_aggregation.packets import (
    Inbox,
    Keys,
    Open,
    Opened,
    Roster,
    Shares,
    Survivors,
    pack,
    unpack,
)
from lumos_core.privacy.secure_aggregation.participant import Participant, capacity, threshold
from lumos_core.privacy.secure_aggregation.primitives import CryptoError
from lumos_core.privacy.secure_aggregation.session import Session
from lumos_core.privacy.secure_aggregation.session_store import FileStore, MemoryStore
from lumos_core.wire import deltas
from lumos_core.wire.messages import Metrics, Packet

CONFIG = RunConfig(
    method="fedavg", secure_aggregation=True, min_nodes=3, min_replies=3, secagg_threshold=0.6
)
NAMES = ["ann", "bob", "cy", "dee"]  # threshold 3
COUNTS: Metrics = {
    "users": 10, "examples": 50, "loss": 90.5, "contrastive": 0.0, "contrastive-users": 0,
    "views-complete": 1, "seconds": 0.01,
}  # fmt: skip


class Group:
    """Honest participants and an honest server, stopped wherever a test wants to step in."""

    def __init__(self, until: str, round_: int = 1, attempt: int = 5, **stores: Any) -> None:
        self.round, self.attempt = round_, attempt
        self.parts = {
            n: Participant(n, "1", CONFIG, FLOWER, stores.get(n, MemoryStore())) for n in NAMES
        }
        if until != "open":
            self.open()
        if until in ("upload", "unmask"):
            self.share()
        if until == "unmask":
            for name in NAMES:
                self.upload(name)

    def open(self) -> None:
        keys = [unpack(Keys, self.answer(n, Open(self.attempt))) for n in NAMES]
        self.roster = Roster(self.attempt, NAMES, [k.seal for k in keys], [k.mask for k in keys])

    def share(self) -> None:
        shares = {n: unpack(Shares, self.answer(n, self.roster)) for n in NAMES}
        letters = {n: dict(zip(s.names, s.sealed, strict=True)) for n, s in shares.items()}
        self.inboxes = {
            n: Inbox(
                self.attempt,
                [m for m in NAMES if m != n],
                [letters[m][n] for m in NAMES if m != n],
            )
            for n in NAMES
        }

    def answer(self, name: str, packet: Any) -> Packet:
        values = packet if isinstance(packet, dict) else pack(packet)
        return self.parts[name].answer(self.round, values)

    def upload(self, name: str, packet: Inbox | None = None) -> np.ndarray:
        def train() -> tuple[dict[str, np.ndarray], Metrics]:
            return {n: 0.01 * a for n, a in start().items()}, COUNTS

        return self.parts[name].upload(
            self.round, pack(packet or self.inboxes[name]), start(), False, train
        )


def _roster(group: Group, **changes: Any) -> Roster:
    values = {"names": group.roster.names, "seals": group.roster.seals,
              "masks": group.roster.masks, **changes}  # fmt: skip
    return Roster(group.attempt, **values)


def _public() -> bytes:
    return FLOWER.public_key(FLOWER.new_private_key())


def test_the_primitives_keep_their_promises() -> None:
    a, b = FLOWER.new_private_key(), FLOWER.new_private_key()
    key = FLOWER.agree(a, FLOWER.public_key(b))
    assert key == FLOWER.agree(b, FLOWER.public_key(a))
    assert len(key) == masks.KEY_BYTES
    sealed = FLOWER.seal(key, b"text")
    assert FLOWER.unseal(key, sealed) == b"text"
    with pytest.raises(CryptoError):
        FLOWER.unseal(FLOWER.agree(a, FLOWER.public_key(a)), sealed)
    shares = FLOWER.split(a, 3, 5)
    assert FLOWER.combine(shares[:3]) == FLOWER.combine([shares[4], shares[1], shares[2]]) == a
    with pytest.raises(CryptoError):
        FLOWER.combine([shares[0], shares[1], shares[1]])
    for bad in (b"", b"\x04" + bytes(96), b"\x02" + b"\xff" * 48):
        with pytest.raises(CryptoError):
            FLOWER.agree(a, bad)


def test_masks_look_uniform_and_cancel_out() -> None:
    """With keys that are written down here, so that it says the same every time."""
    keys = {n: {m: bytes([*sorted((i, j))] * 16) for j, m in enumerate(NAMES) if m != n}
            for i, n in enumerate(NAMES)}  # fmt: skip
    total = np.zeros(50_000, dtype=np.uint32)
    for name in NAMES:
        vector = np.full(len(total), 7, dtype=np.uint32)
        masks.add_pairwise(vector, name, keys[name])
        counts = np.bincount(vector.view(np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-3
        assert chisquare(np.bincount(vector >> 22, minlength=1024)).pvalue > 1e-3
        total += vector
    assert (total == 28).all()
    masks.add_own(total, b"k" * 32)
    assert chisquare(np.bincount(total.view(np.uint8), minlength=256)).pvalue > 1e-3
    masks.remove_own(total, b"k" * 32)
    assert (total == 28).all()


@given(
    st.integers(3, 8), st.integers(0, 2**32 - 1), st.floats(1e-6, 1e4), st.integers(12, 29)
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_sums_are_the_means_of_clipped_deltas(
    nodes: int, seed: int, scale: float, bits: int
) -> None:
    rng = np.random.default_rng(seed)
    config = CONFIG.replace(secagg_bits=bits, secagg_max_weight=50, weighting="users")
    encoding = Encoding.of(config, start(), False)
    total = np.zeros(encoding.size, dtype=np.uint32)
    exact = {n: np.zeros(a.shape) for n, a in start().items()}
    weights, losses = [], []
    for _ in range(min(nodes, capacity(bits))):
        delta = {n: (scale * rng.normal(size=a.shape)).astype("f4") for n, a in start().items()}
        counts: Metrics = {**COUNTS, "users": int(rng.integers(1, 200)), "loss": rng.random() * 1e6}
        total += encoding.encode(delta, counts, rng)
        weights.append(min(int(counts["users"]), 50))
        losses.append(counts["loss"])
        for n, a in deltas.clip(delta, 10.0).items():
            exact[n] += weights[-1] * a.astype("f8")
    mean, metrics = encoding.decode(total, len(weights))
    atol = encoding.step * 50 * len(weights) / sum(weights) + 1e-4
    for n, a in exact.items():
        np.testing.assert_allclose(mean[n], a / sum(weights), atol=atol)
    assert metrics["loss"] == pytest.approx(sum(losses))
    assert metrics["examples"] == 50 * len(weights)


def test_a_sum_with_the_nodes_own_noise_has_a_bound_too() -> None:
    """Nodes clip before they add noise; a vector that is neither clipped nor noise is refused."""
    config = CONFIG.replace(
        dp="distributed", weighting="uniform", dp_clip=0.5, dp_noise_multiplier=0.5, clip="auto"
    )
    encoding = Encoding.of(config, start(), False)
    rng = np.random.default_rng(0)

    def vector(size: float) -> np.ndarray:
        delta = {n: rng.normal(size=a.shape).astype("f4") for n, a in start().items()}
        delta = {n: a * np.float32(size / deltas.norm(delta)) for n, a in delta.items()}
        noisy = noise.add_noise(delta, mechanisms.node_noise(config), noise.Entropy())
        return encoding.encode(noisy, COUNTS, rng)

    honest = [vector(config.dp_clip) for _ in range(4)]
    encoding.decode(np.sum(honest, axis=0, dtype=np.uint32), 4)
    with pytest.raises(ReplyError, match="did not clip"):
        encoding.decode(np.sum([*honest[:3], vector(20.0)], axis=0, dtype=np.uint32), 4)


def test_a_diverged_training_is_not_sent() -> None:
    encoding = Encoding.of(CONFIG, start(), False)
    broken = {n: np.full_like(a, np.nan) for n, a in start().items()}
    with pytest.raises(ModelError, match="diverged"):
        encoding.encode(broken, COUNTS, np.random.default_rng(0))


def test_the_threshold_is_more_than_half() -> None:
    for nodes in range(2, 60):
        for share in (0.51, 0.66, 2 / 3, 1.0):
            assert nodes / 2 < threshold(nodes, share) <= nodes
            assert threshold(nodes, share) >= share * nodes - 1e-6


# ---------------------------------------------------------------- the state machine
REACHED_BY = {"new": "open", "opened": "roster", "shared": "upload", "uploaded": "unmask",
              "closed": "unmask", "past": "unmask"}  # fmt: skip
NEXT = {("new", "open"): "opened", ("opened", "roster"): "shared", ("shared", "upload"): "uploaded",
        ("uploaded", "unmask"): "closed"}  # fmt: skip
NEEDED = {kind: state for state, kind in NEXT}


@pytest.mark.parametrize("kind", NEEDED)
@pytest.mark.parametrize("state", REACHED_BY)
def test_each_packet_is_taken_in_one_state_and_refused_in_all_others(state: str, kind: str) -> None:
    group, other = Group(REACHED_BY[state]), Group("unmask")  # of the same attempt
    part = group.parts["ann"]
    if state == "closed":
        group.answer("ann", Survivors(group.attempt, NAMES))
    if state == "past":
        group.answer("ann", Open(group.attempt + 1))
    roster = getattr(group, "roster", other.roster)
    inbox = getattr(group, "inboxes", other.inboxes)["ann"]
    send = {
        "open": lambda: group.answer("ann", Open(group.attempt)),
        "roster": lambda: group.answer("ann", roster),
        "upload": lambda: group.upload("ann", inbox),
        "unmask": lambda: group.answer("ann", Survivors(group.attempt, NAMES)),
    }[kind]
    before = part.store.load("1")
    if (state, kind) in NEXT:
        send()
        after = part.store.load("1")
        assert after is not None
        assert (after.stage, after.number) == (NEXT[state, kind], (1, group.attempt))
        return
    with pytest.raises(RefusalError) as refused:
        send()
    assert str(refused.value) == (
        "this attempt, or a later one, was opened before: a replay"
        if kind == "open"
        else "no such attempt was opened with this node"
        if state in ("new", "past")
        else f"this node is at '{state}', the step needs '{NEEDED[kind]}'"
    )
    assert part.store.load("1") == before


# ---------------------------------------------------------------- refusals
BAD_ROSTERS: dict[str, Callable[[Group], Any]] = {
    "too few": lambda g: _roster(g, names=NAMES[:2], seals=g.roster.seals[:2],
                                 masks=g.roster.masks[:2]),
    "without me": lambda g: _roster(g, names=["bob", "cy", "dee"], seals=g.roster.seals[1:],
                                    masks=g.roster.masks[1:]),
    "another key for me": lambda g: _roster(g, masks=[_public(), *g.roster.masks[1:]]),
    "one key for two": lambda g: _roster(g, masks=[g.roster.masks[0], *g.roster.masks[:1],
                                                   *g.roster.masks[2:]]),
    "not a point": lambda g: _roster(g, seals=[g.roster.seals[0], b"\x02" + b"\xff" * 48,
                                               *g.roster.seals[2:]]),
    "out of order": lambda g: Roster(g.attempt, NAMES[::-1], g.roster.seals[::-1],
                                     g.roster.masks[::-1]),
    "another attempt": lambda g: Roster(4, NAMES, g.roster.seals, g.roster.masks),
    "doubled name": lambda g: _roster(g, names=["ann", "ann", "cy", "dee"]),
    "path for a name": lambda g: _roster(g, names=["ann", "../bob", "cy", "dee"]),
    "an extra field": lambda g: {**pack(g.roster), "threshold": 1},
    "a missing field": lambda g: {k: v for k, v in pack(g.roster).items() if k != "masks"},
    "keys of another type": lambda g: {**pack(g.roster), "seals": ["a", "b", "c", "d"]},
    "lists of two lengths": lambda g: _roster(g, seals=g.roster.seals[:3]),
    "no stage": lambda g: {"attempt": 5},
    "an unknown stage": lambda g: {"stage": "both", "attempt": 5},
    "a later stage": lambda g: Survivors(g.attempt, NAMES),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_ROSTERS.values(), ids=BAD_ROSTERS.keys())
def test_a_bad_roster_is_refused_and_a_good_one_still_taken(bad: Callable[[Group], Any]) -> None:
    group = Group("roster")
    with pytest.raises(ReplyError):
        group.answer("ann", bad(group))
    group.answer("ann", group.roster)
    with pytest.raises(RefusalError):  # once
        group.answer("ann", group.roster)


def _inbox(group: Group, to: str, **changes: Any) -> Inbox:
    inbox = group.inboxes[to]
    return Inbox(group.attempt, **{"names": inbox.names, "sealed": inbox.sealed, **changes})


BAD_INBOXES: dict[str, Callable[[Group], Inbox]] = {
    "below the threshold": lambda g: _inbox(g, "ann", names=["bob"],
                                            sealed=g.inboxes["ann"].sealed[:1]),
    "a stranger": lambda g: _inbox(g, "ann", names=["bob", "cy", "mallory"]),
    "myself": lambda g: _inbox(g, "ann", names=["ann", "cy", "dee"]),
    "another's letters": lambda g: _inbox(g, "ann", sealed=g.inboxes["bob"].sealed),
    "senders swapped": lambda g: _inbox(g, "ann", names=["cy", "bob", "dee"]),
    "a flipped bit": lambda g: _inbox(g, "ann", sealed=[
        s[:40] + bytes([s[40] ^ 1]) + s[41:] for s in g.inboxes["ann"].sealed]),
    "another attempt": lambda g: Inbox(6, g.inboxes["ann"].names, g.inboxes["ann"].sealed),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_INBOXES.values(), ids=BAD_INBOXES.keys())
def test_with_bad_shares_nothing_is_uploaded(bad: Callable[[Group], Inbox]) -> None:
    group = Group("upload")
    with pytest.raises(ReplyError):
        group.upload("ann", bad(group))
    group.upload("ann")
    with pytest.raises(RefusalError):  # once, or two uploads would share their masks
        group.upload("ann")


def test_nodes_that_were_shown_different_rosters_notice() -> None:
    group = Group("roster")
    other = _roster(group, masks=[*group.roster.masks[:3], _public()])  # dee's is the server's
    honest = group.roster
    letters = {}
    for name, roster in zip(NAMES, (other, honest, honest, honest), strict=True):
        shares = unpack(Shares, group.answer(name, roster))
        letters[name] = dict(zip(shares.names, shares.sealed, strict=True))
    inbox = Inbox(group.attempt, ["bob", "cy", "dee"], [letters[n]["ann"] for n in NAMES[1:]])
    with pytest.raises(RefusalError, match="roster"):
        group.upload("ann", inbox)


BAD_SURVIVORS: dict[str, list[str]] = {
    "below the threshold": ["ann", "bob"],
    "without me": ["bob", "cy", "dee"],
    "a stranger": ["ann", "bob", "cy", "mallory"],
}


@pytest.mark.parametrize("bad", BAD_SURVIVORS.values(), ids=BAD_SURVIVORS.keys())
def test_bad_survivors_are_refused(bad: list[str]) -> None:
    group = Group("unmask")
    with pytest.raises(RefusalError):
        group.answer("ann", Survivors(group.attempt, bad))
    assert unpack(Opened, group.answer("ann", Survivors(group.attempt, NAMES))).names == NAMES


def test_never_both_kinds_of_shares_for_a_node() -> None:
    group = Group("unmask")
    first = unpack(Opened, group.answer("ann", Survivors(group.attempt, ["ann", "bob", "cy"])))
    shares = dict(zip(first.names, first.shares, strict=True))
    with pytest.raises(RefusalError):  # now as if dee had survived
        group.answer("ann", Survivors(group.attempt, NAMES))
    with pytest.raises(RefusalError):
        group.answer("ann", Survivors(group.attempt, ["ann", "bob", "dee"]))
    with pytest.raises(ReplyError):  # nor is there a way to ask for both at once
        group.answer("ann", {**pack(Survivors(group.attempt, NAMES)), "dropped": ["dee"]})
    # bob sees dee among the survivors: one share of either kind, and each needs three
    second = unpack(Opened, group.answer("bob", Survivors(group.attempt, NAMES)))
    others = dict(zip(second.names, second.shares, strict=True))
    assert len(shares["dee"]) != len(others["dee"])
    with pytest.raises(CryptoError):
        FLOWER.combine([shares["dee"], others["dee"]])


@pytest.mark.parametrize(("round_", "attempt"), [(2, 5), (2, 4), (1, 9)])
def test_rounds_and_attempts_only_grow(round_: int, attempt: int) -> None:
    group = Group("unmask", round_=2, attempt=5)
    group.answer("ann", Survivors(5, NAMES))
    with pytest.raises(RefusalError, match="replay"):
        group.parts["ann"].answer(round_, pack(Open(attempt)))
    group.parts["ann"].answer(2, pack(Open(6)))
    with pytest.raises(RefusalError):
        group.upload("ann")  # of the attempt that is over


def test_a_run_without_secure_aggregation_gets_no_step() -> None:
    plain = Participant("ann", "1", RunConfig(), FLOWER, MemoryStore())
    with pytest.raises(RefusalError, match="secure-aggregation"):
        plain.answer(1, pack(Open(1)))


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["stage", "attempt", "names",
       "sealed", "seals", "masks"]), st.integers() | st.text(max_size=5) | st.binary(max_size=5)
       | st.lists(st.text(max_size=3)) | st.lists(st.binary(max_size=3))
       | st.sampled_from(["open", "roster", "upload", "unmask"])))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_arrives_is_answered_or_refused(packet: dict[str, Any]) -> None:
    part = Participant("ann", "1", CONFIG, FLOWER, MemoryStore())
    if set(packet) == {"stage", "attempt"} and packet["stage"] == "open":
        return
    with pytest.raises(ReplyError):
        part.answer(1, packet)
    with pytest.raises(ReplyError):
        part.upload(1, packet, start(), False, lambda: pytest.fail("trained"))


# ---------------------------------------------------------------- what is kept on the disk
def test_files_are_the_owners_alone_and_hold_no_secret_after_the_round(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    group = Group("unmask", ann=store)
    path = tmp_path / "secagg" / "1.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    session = store.load("1")
    assert session is not None
    secrets = [session.seal_key, session.mask_key, session.seed, *session.seed_shares.values()]
    assert all(s.hex() in path.read_text() for s in secrets)
    assert FileStore(tmp_path).load("1") == session
    group.answer("ann", Survivors(group.attempt, NAMES))
    everything = b"".join(p.read_bytes() for p in path.parent.iterdir()).decode()
    assert not any(s.hex() in everything for s in secrets)
    left = json.loads(path.read_text())
    assert {k: v for k, v in left.items() if v} == {
        "schema_version": 1, "run": "1", "round": 1, "attempt": 5, "stage": "closed", "name": "ann"
    }  # fmt: skip


def test_the_upload_is_claimed_before_training(tmp_path: Path) -> None:
    """A second process that gets the same step while the first trains must not take it."""
    group = Group("upload", ann=FileStore(tmp_path))
    second = Participant("ann", "1", CONFIG, FLOWER, FileStore(tmp_path))
    inbox = pack(group.inboxes["ann"])
    refused = []

    def train() -> tuple[dict[str, np.ndarray], Metrics]:
        with pytest.raises(RefusalError):
            second.upload(1, inbox, start(), False, lambda: pytest.fail("trained twice"))
        refused.append(True)
        return start(), COUNTS

    group.parts["ann"].upload(1, inbox, start(), False, train)
    assert refused == [True]


def test_a_damaged_session_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    (tmp_path / "secagg").mkdir()
    (tmp_path / "secagg" / "1.json").write_text("{}")
    with pytest.raises(OSError, match=r"1\.json"):
        store.load("1")
    with pytest.raises(OSError, match="not the id of a run"):
        store.load("../1")


OLD_SESSION = (
    '{"run": "1", "round": 2, "attempt": 5, "stage": "shared", "name": "ann", "seal_key": "0102", '
    '"mask_key": "03", "seed": "5ec4e7", "roster": "ab", "names": ["ann", "bob"], '
    '"seals": {"ann": "04"}, "masks": {"bob": "05"}, "seed_shares": {"ann": "06"}, '
    '"key_shares": {"bob": "07"}}'
)
"""As it was written before there were schema versions."""


def test_a_session_of_before_there_were_versions_goes_on(tmp_path: Path) -> None:
    store, path = FileStore(tmp_path), tmp_path / "secagg" / "1.json"
    path.parent.mkdir()
    path.write_text(OLD_SESSION)
    found = store.load("1")
    assert found == Session(
        run="1", round=2, attempt=5, stage="shared", name="ann", seal_key=b"\x01\x02",
        mask_key=b"\x03", seed=b"\x5e\xc4\xe7", roster="ab", names=("ann", "bob"),
        seals={"ann": b"\x04"}, masks={"bob": b"\x05"}, seed_shares={"ann": b"\x06"},
        key_shares={"bob": b"\x07"},
    )  # fmt: skip
    store.save(found)
    assert json.loads(path.read_text()) == {"schema_version": 1, **json.loads(OLD_SESSION)}


def test_a_session_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secagg" / "1.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"schema_version": 2, **json.loads(OLD_SESSION)}))
    with pytest.raises(NewerFileError, match=r"1\.json: has schema version 2, .* update LUMOS"):
        FileStore(tmp_path).load("1")


@pytest.mark.parametrize(
    "change",
    [{"seed": "5ec4e7x"}, {"seed": 5}, {"more": "5ec4e7"}, {"seals": {"ann": "5ec4e7x"}},
     {"round": "5ec4e7"}, {"stage": "5ec4e7"}],
)  # fmt: skip
def test_what_is_wrong_with_a_session_is_not_quoted(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "secagg" / "1.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**json.loads(OLD_SESSION), **change}))
    with pytest.raises(OSError, match=r"1\.json: not a session as LUMOS writes it") as found:
        FileStore(tmp_path).load("1")
    assert "5ec4e7" not in "".join(traceback.format_exception(found.value))


def test_forgotten_sessions_go(tmp_path: Path) -> None:
    import os

    store = FileStore(tmp_path)
    part = Participant("ann", "old", CONFIG, FLOWER, store)
    part.answer(1, pack(Open(1)))
    os.utime(tmp_path / "secagg" / "old.json", (0, 0))
    killed = tmp_path / "secagg" / ".run.json.x1y2z3"  # in the middle of writing
    killed.write_text("{}")
    os.utime(killed, (0, 0))
    Participant("ann", "new", CONFIG, FLOWER, store).answer(1, pack(Open(1)))
    assert [p.name for p in (tmp_path / "secagg").glob("*.json")] == ["new.json"]
    assert not killed.exists()
