"""Three nights over TLS and real processes: after the first the server is restored from a backup,
the catalog grows, for the server and one of two nodes, and this node gets new interactions; in the
second more of them come, and the server is killed and started again. Nobody touches the nodes. All
nights are measured on the newest days (``evaluation = last-days``)."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from deployment_support import (
    Terminals,
    leftovers,
    named,
    wait_while_files_change,
    write_prepared,
)
from hosts_support import settings

from lumos_core import Catalog, RunConfig, load_model
from lumos_core.data.layout import CATALOG_VERSIONS
from lumos_core.federation.warm_start import START_FACTS, StartFacts
from lumos_core.flower import commands
from lumos_core.runs.folder import read_config
from lumos_core.runs.history import VERSIONS, read_history
from lumos_core.runs.series_file import SERIES, SeriesFile

pytestmark = [pytest.mark.integration, pytest.mark.faults]

T = TypeVar("T")
ROUNDS = 3
USERS = 12  # of a node: of fewer than ten, sums of an evaluation are not told
DAY = 86_400
TODAY = int(time.time()) // DAY
LAST_DAYS = 7


class Shop(Terminals):
    """A server with a timetable, and two nodes."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.kit = place / "deployment" / "server"
        self.series = self.kit / "series"
        self.data = write_prepared(place / "data", users=USERS)
        for path in self.data.glob("node-*/interactions.tsv"):
            path.write_text(_dated(path.read_text()))
        [port] = commands.free_ports(1)
        self.lumos("deploy", "init", "deployment", "--host", "127.0.0.1", "--nodes", "2",
                   "--port", str(port))  # fmt: skip

    def start_server(self, nights: int) -> "subprocess.Popen[bytes]":
        return self.start(
            "server", "deploy", "server", str(self.kit), "--bind", "127.0.0.1", "--every", "5s",
            "--nights", str(nights), "--catalog", str(self.data / "catalog.tsv"),
            "--rounds", str(ROUNDS), *settings(
                round_timeout="400", start_timeout="400", evaluation="last-days",
                last_days=str(LAST_DAYS),
            ),
        )  # fmt: skip

    def start_nodes(self) -> None:
        for name in ("node-0", "node-1"):
            self.start(name, "node", "start", f"deployment/nodes/{name}", "--data", f"data/{name}")

    def restore_from_backup(self) -> None:
        """The recipe of docs/operations.md."""
        archive, folder = str(self.place / "backup.tgz"), str(self.kit.parent)
        subprocess.run(["tar", "-czf", archive, "-C", folder, "server"], check=True)
        shutil.rmtree(self.kit)
        subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)

    def extend_catalog(self, item: str) -> None:
        """The next version, which the server and node-0 get and node-1 does not."""
        catalog, new = self.data / "catalog.tsv", self.place / "new.tsv"
        first, *rest = catalog.read_text().splitlines(keepends=True)[1:]
        new.write_text("item_id\ttitle\n" + first.replace("thing", "THING") + "".join(rest) + item)
        self.lumos("catalog", "extend", str(catalog), str(new), "--out", str(catalog))
        for name in ("catalog.tsv", CATALOG_VERSIONS):
            shutil.copy(self.data / name, self.data / "node-0" / name)

    def ingest(self, user: str) -> str:
        """A new user's interactions come to node-0 while it is running."""
        log = self.place / f"{user}.tsv"
        rows = "".join(f"{user}\ti{n}\t{n}\n" for n in range(5))
        log.write_text(_dated(f"user_id\titem_id\ttimestamp\n{rows}"))
        return self.lumos("node", "ingest", str(log), "--data", "data/node-0")

    def users(self, night: str) -> list[int]:
        """How many users trained in each round of a night."""
        history = read_history(self.series / "runs" / night / "history.jsonl")
        return [event["users"] for event in history if event["event"] == "round"]

    def wait(self, condition: Callable[[], T]) -> T:
        """The first true value of a condition, as long as the series goes on."""

        def files() -> list[Path]:
            return [
                *self.place.glob("*.txt"), *self.series.glob("*.json"),
                *self.series.glob("runs/*/*.jsonl"), *self.data.glob("*/state/ledger.jsonl"),
            ]  # fmt: skip

        return wait_while_files_change(condition, files)

    def end_of(self, server: "subprocess.Popen[bytes]") -> int:
        self.wait(lambda: server.poll() is not None)
        return int(server.wait())

    def file(self) -> SeriesFile:
        return SeriesFile.read_if_there(self.series / SERIES) or SeriesFile()

    def rounds(self, night: str) -> int:
        return len(self.users(night))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    found = Shop(tmp_path)
    try:
        yield found
    finally:
        found.stop()
    assert leftovers(tmp_path, []) == []


@pytest.mark.timeout(3600)
def test_three_nights_on_a_timetable(shop: Shop) -> None:
    shop.start_nodes()
    assert shop.end_of(shop.start_server(1)) == 0, shop.said("server")
    shop.restore_from_backup()
    shop.extend_catalog("new\tthing number new\n")
    assert "5 rows = 5 added (1 new user)" in shop.ingest("tuesday")
    assert "5 rows = 0 added + 5 known" in shop.ingest("tuesday")

    server = shop.start_server(3)
    night = shop.wait(lambda: len(n := shop.file().nights) == 2 and n[1].name)
    shop.wait(lambda: shop.rounds(night) > 0)
    for process in [*named(server.pid, "flwr-serverapp"), *named(server.pid, "flower-superlink")]:
        process.kill()
    server.kill()
    server.wait()
    assert shop.file().nights[1].outcome == "running"
    assert 0 < shop.rounds(night) < ROUNDS
    shop.ingest("wednesday")  # in the middle of a night: its last rounds do not see them
    day = _config(shop, night).evaluate_from

    assert shop.end_of(shop.start_server(3)) == 0, shop.said("server")
    done = shop.file()
    assert [n.outcome for n in done.nights] == ["completed"] * 3
    assert [n.rounds for n in done.nights] == [ROUNDS] * 3
    assert done.nights[1].name == night
    assert [shop.users(n.name) for n in done.nights] == [
        [count] * ROUNDS for count in (2 * USERS, 2 * USERS + 1, 2 * USERS + 2)
    ]
    assert all(n.before is not None for n in done.nights), "measured on the newest days"
    assert done.ended == "3 nights are done, --nights 3"
    for later in done.nights[1:]:
        history = read_history(shop.series / "runs" / later.name / "history.jsonl")
        [note] = {e["note"] for e in history if e["event"] == VERSIONS}
        assert note.startswith(
            "uses catalog version 1 of 2: it trains and ranks the first 40 items"
        )
        assert all(e["ok"] == ["node-0", "node-1"] for e in history if e["event"] == "round")
    grown = Catalog.read(shop.data / "catalog.tsv")
    load_model(shop.series / "current", grown)
    configs = [_config(shop, n.name) for n in done.nights]
    assert [config.seed for config in configs] == [0, 1, 2]
    assert [config.evaluation for config in configs] == ["last-days"] * 3
    assert configs[1].evaluate_from == day, "a resumed night keeps its day"
    for before, after in zip(done.nights, done.nights[1:], strict=False):
        in_use = [n.name for n in done.nights if n.promoted and n.name <= before.name][-1]
        facts = StartFacts.read(shop.series / "runs" / after.name / START_FACTS)
        assert Path(facts.source).name == in_use
    assert (shop.series / "current" / "report.md").stat().st_size > 0
    status = json.loads(shop.lumos("status", str(shop.series), "--json"))
    assert status["model"] == done.model


def _dated(table: str) -> str:
    """A table whose times are positions in histories, with days: each user's newest interaction is
    of yesterday, the others are of last month."""
    first, *rows = table.splitlines()
    users = [row.split("\t")[0] for row in rows]
    newest = {user: n for n, user in enumerate(users)}
    dated = []
    for n, row in enumerate(rows):
        user, item, position = row.split("\t")
        day = TODAY - (1 if newest[user] == n else 30 - int(position))
        dated.append(f"{user}\t{item}\t{day * DAY}")
    return "\n".join([first, *dated]) + "\n"


def _config(shop: Shop, night: str) -> RunConfig:
    found = read_config(shop.series / "runs" / night)
    assert found is not None
    return found
