"""Users are forgotten: in every place of a node's disk, after an interruption too, and for good."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_in_process import InProcessGrid, identify, node_context, tiny_config, write_nodes

from client_app.client import app
from lumos_core.config import NodeConfig
from lumos_core.data import Catalog
from lumos_core.data.forgotten_users import readmit_users
from lumos_core.data.ingest import ingest
from lumos_core.data.layout import shared_state
from lumos_core.data.node_cache import KEPT as CACHE
from lumos_core.data.node_cache import SNAPSHOT, keep_snapshot, read_kept_node
from lumos_core.data.node_folder import read_node
from lumos_core.data.splits import LeaveOneOut
from lumos_core.deployment import forgetting as module
from lumos_core.deployment.forgetting import (
    UNFINISHED,
    Forgetting,
    Unfinished,
    forgetting,
    only_this,
    what_remains,
)
from lumos_core.errors import DataError, FederationError
from lumos_core.federation.round_loop import FederationResult, run_federation
from lumos_core.learning.title_start import initial_params
from lumos_core.privacy.budget import epsilon
from lumos_core.privacy.ledger_file import FORGOTTEN, read_lines
from lumos_core.privacy.node_budget import Account, Training
from lumos_core.recommend.model_files import KEPT_FINAL, KEPT_LATEST
from lumos_core.views.source import STORE
from lumos_core.views.view import UserViews
from lumos_core.views.view_store import ViewStore, view_key
from server_app.grid_transport import GridTransport

USER = "u0x1"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    identify()
    return write_nodes(tmp_path)


def federate(folder: Path, run: str = "run", **changes: object) -> FederationResult:
    """A run of two rounds over Flower's messages, with all that leaves traces on a node's disk."""
    config = tiny_config(
        folder,
        **{
            "method": "lumos", "views": "tfidf", "delta-codec": "int8", "error-feedback": True,
            "run-dir": str(folder / run), **changes,
        },
    )  # fmt: skip
    catalog = Catalog.read(folder / "catalog.tsv")
    grid = InProcessGrid(app, {100 + n: node_context(config, n) for n in range(2)})
    transport = GridTransport(grid, catalog.fingerprint, poll=0.01)
    return run_federation(config, transport, catalog.fingerprint, initial_params(config, catalog))


def node(folder: Path, **changes: Any) -> NodeConfig:
    return NodeConfig(data=str(folder / "node-0"), name="node-0", **changes)


def forget(config: NodeConfig, *users: str) -> Forgetting:
    with only_this(config):
        found = forgetting(config, users)
        assert [step.what for step in found.carry_out()] == [step.what for step in found.steps]
    return found


def traces(folder: Path, text: str) -> list[str]:
    """Files that hold a text."""
    files = [path for path in (folder / "node-0").rglob("*") if path.is_file()]
    return [path.name for path in files if text.encode() in path.read_bytes()]


def histories(folder: Path) -> list[list[int]]:
    """Training histories of the node's users now."""
    return [h.tolist() for h in LeaveOneOut(read_node(folder / "node-0")[1]).train()]


def stored(folder: Path) -> tuple[int, int]:
    """How many views there are, and how many are of none of the node's users."""
    with ViewStore(folder / "node-0" / "state" / STORE) as store:
        return len(store), len(store.others(histories(folder)))


# ---------------------------------------------------------------- a federation before and after
def test_after_a_federation_nothing_of_a_user_is_left_and_the_next_one_brings_nothing_back(
    folder: Path,
) -> None:
    state = folder / "node-0" / "state"
    assert federate(folder).outcome == "completed"
    (state / "node.log").write_text(f"user {USER!r} has 2 items\n")
    assert sorted(traces(folder, USER)) == [CACHE, "interactions.tsv", "node.log"]
    assert stored(folder) == (6, 0)
    before = {path: (state / path).read_bytes() for path in (KEPT_FINAL, KEPT_LATEST, "spent.json")}

    found = forget(node(folder), USER)
    assert traces(folder, USER) == []
    assert stored(folder) == (5, 0)
    assert sorted(path.name for path in state.iterdir() if not path.name.startswith(".")) == [
        "forgotten.json", "ledger.jsonl", "model", "spent.json", "views-progress.json",
        "views.sqlite", "views.sqlite.lock",
    ]  # fmt: skip
    assert list((state / "model").iterdir()) == []
    assert (state / "spent.json").read_bytes() == before["spent.json"], "spent ε does not come back"
    assert [step.what for step in found.steps] == [
        "data", "cached histories", "views", "error feedback", "kept models", "log of errors",
    ]  # fmt: skip

    assert federate(folder, "again").outcome == "completed"
    assert traces(folder, USER) == []
    assert stored(folder) == (5, 0)
    with np.load(state / CACHE) as cache:
        assert len(cache["offsets"]) == 5 + 1
    assert (state / KEPT_FINAL).read_bytes() != before[KEPT_FINAL]


def test_the_other_node_keeps_everything(folder: Path) -> None:
    federate(folder)
    other = folder / "node-1"
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    forget(node(folder), USER)
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


def test_the_ledger_tells_how_many_were_forgotten_and_not_who(folder: Path) -> None:
    federate(folder)
    rows = (folder / "node-0" / "interactions.tsv").read_text().count(f"{USER}\t")
    forget(node(folder), USER)
    *_, line = read_lines(folder / "node-0" / "state")
    assert (line["message"], line["users"], line["interactions"]) == (FORGOTTEN, 1, rows)
    assert line["records"] == []
    assert USER not in json.dumps(line)
    assert not (folder / "node-0" / "state" / UNFINISHED).exists()


def test_several_users_at_once(folder: Path) -> None:
    found = forget(node(folder), USER, "u0x4")
    assert len(found.unfinished.users) == 2
    assert read_node(folder / "node-0")[1].user_ids == ("u0x0", "u0x2", "u0x3", "u0x5")


# ---------------------------------------------------------------- interruptions
class KilledError(BaseException):
    """Not an Exception: nothing may swallow it."""


def begin(config: NodeConfig, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies when it has taken so many steps, and at the latest before the ledger."""

    def dying(self: Forgetting) -> dict[str, object]:
        raise KilledError

    with only_this(config), monkeypatch.context() as patch, suppress(KilledError):
        patch.setattr(Forgetting, "_line", dying)
        work = forgetting(config, [USER]).carry_out()
        for _ in range(steps):
            next(work)
        work.close()


@pytest.mark.parametrize("step", range(8))
def test_the_same_command_finishes_what_was_interrupted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    federate(folder)
    state, config = folder / "node-0" / "state", node(folder)
    rows = (folder / "node-0" / "interactions.tsv").read_text().count(f"{USER}\t")
    (state / "node.log").write_text(USER)
    begin(config, step, monkeypatch)
    assert (state / UNFINISHED).exists() == (step > 0)
    if step:
        assert USER not in (state / UNFINISHED).read_text()
        assert USER not in (folder / "node-0" / "interactions.tsv").read_text(), "the data first"
    assert [line for line in read_lines(state) if line["message"] == FORGOTTEN] == []

    found = forget(config, USER)
    assert found.resumed == (step > 0)
    assert traces(folder, USER) == []
    assert stored(folder) == (5, 0)
    assert not (state / UNFINISHED).exists()
    for name in (CACHE, KEPT_FINAL, KEPT_LATEST, "residuals", "node.log"):
        assert not (state / name).exists()
    [line] = [line for line in read_lines(state) if line["message"] == FORGOTTEN]
    assert (line["users"], line["interactions"]) == (1, rows)


def test_a_disk_that_refuses_is_named_and_the_same_command_continues(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federate(folder)

    def refuses(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    config = node(folder)
    with monkeypatch.context() as patch:
        patch.setattr(module, "delete", refuses)
        with pytest.raises(DataError, match=r"histories\.npz: .*Read-only.*same command again"):
            forget(config, USER)
    forget(config, USER)
    assert traces(folder, USER) == []


def test_another_user_in_between_finishes_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, state = node(folder), folder / "node-0" / "state"
    begin(config, 1, monkeypatch)
    forget(config, "u0x2")
    *_, line = read_lines(state)
    assert line["users"] == 2
    with pytest.raises(DataError, match="has no user 'u0x1'"):
        forgetting(config, [USER])


def test_a_note_of_a_process_that_was_killed_counts_nobody_twice(folder: Path) -> None:
    """It died between the note and the data."""
    config = node(folder)
    with only_this(config):
        found = forgetting(config, [USER])
        found.unfinished.write(config.state_folder / UNFINISHED)
    again = forgetting(config, [USER])
    assert again.resumed
    assert again.unfinished == found.unfinished
    assert isinstance(Unfinished.of_node(config.state_folder), Unfinished)


# ---------------------------------------------------------------- refusals
def test_an_unknown_user_is_an_error_and_nothing_is_removed(folder: Path) -> None:
    federate(folder)
    before = traces(folder, USER)
    with pytest.raises(DataError, match=r"has no user 'nobody' among its 6, .*nothing was removed"):
        forget(node(folder), USER, "nobody")
    assert traces(folder, USER) == before
    assert stored(folder) == (6, 0)


def test_a_node_of_nobody_is_an_error_before_anything_is_removed(folder: Path) -> None:
    federate(folder)
    everybody = read_node(folder / "node-0")[1].user_ids
    with pytest.raises(DataError, match="'lumos deploy remove-node'"):
        forget(node(folder), *everybody)
    assert sorted(traces(folder, USER)) == [CACHE, "interactions.tsv"]


def test_a_running_node_is_not_touched(folder: Path) -> None:
    """By a real process that holds the lock of ``lumos node start``."""
    state = folder / "node-0" / "state"
    state.mkdir()
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lumos_core.deployment.supervision import alone\n"
        "with alone(Path(sys.argv[1]), 'taken'):\n    print('held', flush=True)\n    input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(state)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(FederationError, match="this node is running"):
        forget(node(folder), USER)
    assert traces(folder, USER) == ["interactions.tsv"]
    process.communicate("\n", timeout=60)
    forget(node(folder), USER)
    assert traces(folder, USER) == []


# ---------------------------------------------------------------- single places
def test_what_was_made_from_users_who_left_the_data_by_another_way(folder: Path) -> None:
    federate(folder)
    path = folder / "node-0" / "interactions.tsv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(USER)))
    assert stored(folder) == (6, 1)
    assert traces(folder, USER) == [CACHE]
    forget(node(folder))
    assert stored(folder) == (5, 0)
    assert traces(folder, USER) == []
    *_, line = read_lines(folder / "node-0" / "state")
    assert (line["message"], line["users"]) == (FORGOTTEN, 0)


def test_a_view_that_somebody_who_stays_needs_too_is_kept(folder: Path) -> None:
    path = folder / "node-0" / "interactions.tsv"
    twin = [line for line in path.read_text().splitlines() if line.startswith(USER)]
    with path.open("a") as file:
        file.writelines(line.replace(USER, "twin") + "\n" for line in twin)
    federate(folder)
    assert stored(folder) == (6, 0)
    forget(node(folder), USER)
    assert stored(folder) == (6, 0)


def test_views_of_earlier_histories_of_a_user_go_as_well(folder: Path) -> None:
    """Their keys do not tell whose they were, nor do those of views of an unknown writer."""
    federate(folder)
    with ViewStore(folder / "node-0" / "state" / STORE) as store:
        [count] = store.writers()
        assert count.writer is not None
        earlier = view_key(count.writer.fingerprint, histories(folder)[1][:-1])
        views = UserViews((1,), (2,), (3,))
        store.put_many({earlier: views, view_key("unknown", [1, 2]): views})
    assert stored(folder) == (8, 2)
    forget(node(folder), USER)
    assert stored(folder) == (5, 0)


def test_views_that_nodes_of_a_prepared_folder_share(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"nodes": 2}')
    federate(folder)
    shared = shared_state(folder) / STORE
    for number in range(2):
        with ViewStore(folder / f"node-{number}" / "state" / STORE) as store:
            [count] = store.writers()
            assert count.writer is not None
            sequences = read_node(folder / f"node-{number}")[1]
            keys = [view_key(count.writer.fingerprint, h) for h in LeaveOneOut(sequences).train()]
            found = store.get_many(keys)
        with ViewStore(shared, count.writer) as store:
            store.put_many(found)
    with ViewStore(shared) as store:
        assert len(store) == 12
    forget(node(folder), USER)
    with ViewStore(shared) as store:
        assert len(store) == 11, "those of the other node stay"


def test_copies_of_killed_processes_go(folder: Path) -> None:
    data, state = folder / "node-0", folder / "node-0" / "state"
    (state / "model").mkdir(parents=True)
    copies = [
        data / ".interactions.tsv.x1", state / ".histories.npz.x2",
        state / "model" / ".final.safetensors.x3",
    ]  # fmt: skip
    for path in copies:
        path.write_text(USER)
    forget(node(folder), USER)
    assert traces(folder, USER) == []


def test_a_state_folder_of_the_owner_s_choice(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "elsewhere"
    state.mkdir()
    (state / CACHE).write_text(USER)
    forget(node(folder, state=str(state)), USER)
    assert not (state / CACHE).exists()
    assert [line["users"] for line in read_lines(state)] == [1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_writes_belongs_to_the_owners_of_the_folders(folder: Path) -> None:
    """A node whose data are root's, and which runs as a user of its own, as under systemd."""
    federate(folder)
    state, data = folder / "node-0" / "state", folder / "node-0" / "interactions.tsv"
    os.chown(data, 0, 4711)
    data.chmod(0o640)
    for path in (state, *state.rglob("*")):
        os.chown(path, 4712, 4712)
    (state / "ledger.jsonl").unlink()
    (state / STORE).with_name(f"{STORE}.lock").unlink()
    forget(node(folder), USER)
    assert [path.name for path in state.iterdir() if path.stat().st_uid != 4712] == []
    found = data.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 4711, 0o640)


# ---------------------------------------------------------------- what remains
def remains(config: NodeConfig) -> str:
    return "\n".join(what_remains(forgetting(config, [USER])))


def test_of_a_node_that_never_trained_nothing_was_learned(folder: Path) -> None:
    text = remains(node(folder))
    assert "counts no training of this node" in text
    assert "stays as it is" in text
    assert "'lumos prepare'" in text


def test_the_bound_is_that_of_all_runs_together(folder: Path) -> None:
    config = node(folder)
    account = Account(config.state_folder)
    for run, training in (("a", Training(2.0)), ("b", Training(2.0)), ("b", Training())):
        account.change(lambda s, run=run, t=training: s.after_training(run, t))
    text = remains(config)
    assert f"at most ε = {epsilon(2.0, 1.0, 2, 1e-5):.3g} (δ = 1e-05)" in text
    assert "2 trainings had noise" in text
    assert "1 trainings had no noise" in text
    assert "only training a new model" in text


def test_a_damaged_account_does_not_keep_anybody_from_being_forgotten(folder: Path) -> None:
    config = node(folder)
    config.state_folder.mkdir()
    Account(config.state_folder).path.write_text("{")
    assert "is not known" in remains(config)


def test_files_that_lumos_does_not_know_are_named(folder: Path) -> None:
    (folder / "node-0" / "interactions.bak").touch()
    (folder / "second-name").hardlink_to(folder / "node-0" / "interactions.tsv")
    text = remains(node(folder, min_users=6))
    assert "Not looked into, as LUMOS does not know them: interactions.bak in" in text
    assert "hard link" in text
    assert "5 users are left, and min-users = 6" in text


def test_rows_that_arrive_later_do_not_bring_a_user_back(folder: Path) -> None:
    """Neither by 'lumos node ingest' nor by a file that somebody puts into the data folder."""
    own = folder / "node-0"
    before = (own / "interactions.tsv").read_bytes()
    forget(node(folder), USER)
    forget(node(folder), "u0x4")
    log = folder / "log.tsv"
    log.write_bytes(before)
    done = ingest(log, own, own / "state")
    assert (done.added, done.new_users) == (0, 0)
    assert done.forgotten == before.count(f"{USER}\t".encode()) + before.count(b"u0x4\t")
    assert traces(folder / "node-0", USER) == []

    (own / "interactions.tsv").write_bytes(before)  # 'lumos prepare --force' of the old log
    left = read_kept_node(own, own / "state")[1]
    assert left.user_ids == ("u0x0", "u0x2", "u0x3", "u0x5")
    assert readmit_users(own / "state", [USER]) == [USER]
    assert USER in read_kept_node(own, own / "state")[1].user_ids


def test_the_data_of_a_run_that_goes_on_are_removed_too(folder: Path) -> None:
    own = folder / "node-0"
    keep_snapshot(own / "state", "ab" * 8, *read_node(own))
    assert SNAPSHOT in traces(folder, USER)
    forget(node(folder), USER)
    assert traces(folder, USER) == []


def test_rows_that_arrive_while_somebody_decides_are_not_lost(folder: Path) -> None:
    own = folder / "node-0"
    found = forgetting(node(folder), [USER])
    log = folder / "log.tsv"
    log.write_text("user_id\titem_id\ttimestamp\nnew\ti1\t1\n")
    assert ingest(log, own, own / "state").added == 1
    with pytest.raises(DataError, match="the file has changed"):
        list(found.carry_out())
    forget(node(folder), USER)
    assert "new\ti1\t1" in (own / "interactions.tsv").read_text()
    assert traces(own, USER) == []
