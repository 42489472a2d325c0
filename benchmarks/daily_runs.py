"""A month of daily runs on a shop's log with real timestamps: warm, cold and frozen.

    python benchmarks/daily_runs.py [FOLDER] [--days 30] [--until DAY] [--nodes 4] [--out FILE]

FOLDER holds `interactions.tsv` (`user_id item_id timestamp`) and `items.tsv`; the default is the
bundled sample. Every evening the catalog grows by the items that were sold for the first time, each
node adds the day's purchases to its histories, and a federation trains. Two nodes are not like the
others. The last one is away every third evening. The one before it takes ten times as long for a
training, on a simulated clock, and rounds close with three replies of four (`close-at = 0.75`): so
they do without it on evenings on which all are there, and wait for it on those on which three are.
The next day's purchases, those of its users as well, are then ranked against the whole catalog,
what a user has bought before left out:

* **warm**: a few rounds, beginning with the model of the evening before;
* **cold**: as many rounds from a new model;
* **long cold**: the cold run with more rounds, the cost of a full training every evening;
* **frozen**: the model of the first evening, with rows for new items, never trained again.

Of purchases of items that nobody had bought before that day no model can rank any; their number is
in the results. Purchases of items whose first sale was in the last 14 days are measured by
themselves as well (`new`): there a new item's start from titles, and training since, has to show.

`rounds_needed` compares the starts on the validation targets of the evenings of which all rounds
have the same users, those on which a node is away: after how many rounds each is as good as the
cold run is at its end, and how many the long cold run needs to be as good as what the warm one
begins with.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from lumos_core import Catalog, RunConfig, simulate
from lumos_core.data import Sequences
from lumos_core.data.sample import bundled_sample
from lumos_core.experiments.jobs import library_versions
from lumos_core.learning.evaluation import user_ranks
from lumos_core.learning.model import build_model, set_params
from lumos_core.learning.title_nearness import TitleNearness
from lumos_core.recommend.grown_catalog import model_for
from lumos_core.recommend.model_files import read_whole
from lumos_core.safe_files import write_json

RESULTS = Path(__file__).parent / "results" / "daily_runs.json"
LEAST = 3  # interactions of a user who takes part
NEW_DAYS = 14  # so long after its first sale an item is new
CLOSE_AT = 0.75  # of four nodes, three; of three, all
METRIC = "ndcg@20"
FACTS = "daily_runs.json"
KINDS = ("warm", "cold", "long cold", "frozen")


@dataclass(frozen=True)
class Evening:
    """What is known when a day is over, and what is bought on the next one.

    Attributes:
        day: the day that is over.
        catalog: of all items sold so far, in the order of their first sale.
        users: ids, in the order of ``histories``.
        histories: of all users who take part.
        asked, targets: user (row of ``histories``) and item of each purchase to predict.
        new: bool, one for each of ``targets``: whether the item is new.
        unknown: purchases of the next day of items that are not in the catalog.
    """

    day: date
    catalog: Catalog
    users: list[str]
    histories: list[list[int]]
    asked: np.ndarray
    targets: np.ndarray
    new: np.ndarray
    unknown: int


def evenings(folder: Path, days: int, until: str) -> Iterator[Evening]:
    """The last days of a log before a day, each with the next one on which anything was bought."""
    log = pl.read_csv(folder / "interactions.tsv", separator="\t", schema_overrides={
        "user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64,
    }).sort("timestamp", maintain_order=True)  # fmt: skip
    items = pl.read_csv(folder / "items.tsv", separator="\t", quote_char=None, infer_schema=False)
    titles = dict(items.select("item_id", "title").iter_rows())
    when = [datetime.fromtimestamp(t, UTC).date() for t in log["timestamp"]]
    log = log.with_columns(pl.Series("day", when))
    selling = [d for d in sorted(set(when)) if not until or d.isoformat() < until][-days - 1 :]
    for day, following in pairwise(selling):
        past, future = log.filter(pl.col("day") <= day), log.filter(pl.col("day") == following)
        yield _evening(day, past, future, titles)


def _evening(
    day: date, past: pl.DataFrame, future: pl.DataFrame, titles: Mapping[str, str]
) -> Evening:
    ids = past["item_id"].unique(maintain_order=True).to_list()
    catalog = Catalog(tuple(ids), tuple(titles[i] for i in ids))
    index = {item: n for n, item in enumerate(ids, start=1)}
    found = past.group_by("user_id", maintain_order=True).agg("item_id")
    taking = [(user, items) for user, items in found.iter_rows() if len(items) >= LEAST]
    histories = [[index[i] for i in items] for _, items in taking]
    row = {user: n for n, (user, _) in enumerate(taking)}
    since = day - timedelta(days=NEW_DAYS)
    old = set(past.filter(pl.col("day") <= since)["item_id"])
    asked, targets, new, unknown = [], [], [], 0
    for user, item in future.select("user_id", "item_id").unique(maintain_order=True).iter_rows():
        if user not in row:
            continue
        if item not in index:
            unknown += 1
        elif index[item] not in histories[row[user]]:
            asked.append(row[user])
            targets.append(index[item])
            new.append(item not in old)
    return Evening(
        day, catalog, [user for user, _ in taking], histories, np.array(asked, dtype=np.int64),
        np.array(targets, dtype=np.int64), np.array(new, dtype=bool), unknown,
    )  # fmt: skip


def shops(evening: Evening, nodes: int, away: bool) -> dict[str, Sequences]:
    """The users of each node: a user stays where they are. The last node may be away."""
    parts: dict[str, list[list[int]]] = {f"node-{n}": [] for n in range(nodes)}
    for user, history in zip(evening.users, evening.histories, strict=True):
        parts[f"node-{sum(user.encode()) % nodes}"].append(history)
    if away:
        del parts[f"node-{nodes - 1}"]
    return {name: Sequences.from_lists(lists) for name, lists in parts.items() if lists}


def hits(model_folder: Path, evening: Evening, k: int = 20) -> np.ndarray:
    """bool [purchases of the next day]: whether the item is among the first k."""
    params, card = read_whole(model_folder)
    params, card = model_for(model_folder, params, card, evening.catalog)
    model = build_model(card.model_shape)
    set_params(model, params)
    asked = Sequences.from_lists([evening.histories[user] for user in evening.asked])
    titles = TitleNearness.of(evening.catalog) if card.title_weight else None
    ranks = user_ranks(model.eval(), asked, evening.targets, titles, card.title_weight)
    found: np.ndarray = ranks <= k
    return found


@dataclass(frozen=True)
class Run:
    """A run of one evening, which is not done again if its facts are in its folder.

    Attributes:
        folder: of the run.
        rounds: how many it has.
        start: the run whose model it begins with; None for a new model.
        copy_of: the run with which it has its first rounds in common.
    """

    folder: Path
    rounds: int
    start: Path | None = None
    copy_of: Path | None = None

    def train(
        self, config: RunConfig, catalog: Catalog, parts: dict[str, Sequences],
        slow: dict[str, float],
    ) -> dict[str, Any]:  # fmt: skip
        """What it cost, and how good its models were on validation targets."""
        facts = self.folder / FACTS
        if facts.is_file():
            return dict(json.loads(facts.read_text()))
        shutil.rmtree(self.folder, ignore_errors=True)
        seconds = -time.process_time()
        if self.copy_of:
            shutil.copytree(self.copy_of, self.folder, ignore=shutil.ignore_patterns(FACTS))
            seconds += json.loads((self.copy_of / FACTS).read_text())["cpu_seconds"]
        events = simulate(
            config.replace(rounds=self.rounds), catalog, parts, run_dir=self.folder,
            start=self.start, seconds=slow, resume=True,
        ).events  # fmt: skip
        rounds = [set(event["ok"]) for event in events if event["event"] == "round"]
        found = {
            "cpu_seconds": round(seconds + time.process_time(), 1),
            METRIC: curve(events),
            "rounds with the slow node": sum(bool(slow) and set(slow) <= ok for ok in rounds),
        }
        write_json(facts, found)
        return found


def month(options: argparse.Namespace, place: Path) -> Iterator[dict[str, Any]]:
    """One result an evening."""
    slow = {f"node-{options.nodes - 2}": options.slower} if options.slower else {}
    base = RunConfig(
        method="fedavg-plus", semantic_start="tfidf", min_nodes=1, min_replies=1,
        close_at=CLOSE_AT if slow else 1.0,
    )  # fmt: skip
    for number, evening in enumerate(evenings(options.folder, options.days, options.until)):
        parts = shops(evening, options.nodes, away=number % 3 == 2)
        result: dict[str, Any] = {
            "day": evening.day.isoformat(), "items": len(evening.catalog),
            "users": len(evening.users), "nodes": len(parts), "purchases": len(evening.targets),
            "unknown": evening.unknown, "new": int(evening.new.sum()),
        }  # fmt: skip

        models = {kind: place / f"{kind}-{number}" for kind in KINDS[:3]}
        first = place / "long cold-0"
        before = place / f"warm-{number - 1}" if number else first
        runs = {
            "cold": Run(models["cold"], options.rounds),
            # the same run, with the same seed, goes on
            "long cold": Run(models["long cold"], options.long_rounds, copy_of=models["cold"]),
            "warm": Run(models["warm"], options.rounds, before),
        }
        for kind, run in runs.items():
            if kind.endswith(options.only) or number == 0:
                facts = run.train(base.replace(seed=number), evening.catalog, parts, slow)
                result |= {f"{kind} {name}": value for name, value in facts.items()}
        if options.only:
            continue
        models["frozen"] = first
        if len(evening.targets):
            for kind in KINDS:
                found = hits(models[kind], evening)
                result[kind] = round(float(found.mean()), 4)
                result[f"{kind} new hits"] = int(found[evening.new].sum())
        yield result


def curve(events: list[dict[str, Any]]) -> list[float]:
    """On validation targets, of the model after each round from 0 on; empty if some rounds were
    measured on other users than others."""
    told = [e for e in events if e["event"] == "evaluation" and e["split"] == "validation"]
    if len({event["users"] for event in told}) > 1:
        return []
    of_round = {event["round"]: round(event[METRIC], 4) for event in told}
    return [of_round[n] for n in sorted(of_round)]


def draw(days: list[dict[str, Any]], path: Path) -> None:
    """HR@20 of the next day's purchases: the mean of the last seven evenings, by purchases."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    colours = {"warm": "#0b7285", "cold": "#adb5bd", "long cold": "#f08c00", "frozen": "#495057"}
    styles = {"warm": "-", "cold": "-", "long cold": "--", "frozen": ":"}
    sold = [day for day in days if day["purchases"]]
    for kind in KINDS:
        values = [_moving(sold, kind, n) for n in range(len(sold))]
        axis.plot(range(len(sold)), values, styles[kind], color=colours[kind], label=kind)
    ticks = range(0, len(sold), 5)
    axis.set_xticks(ticks, [sold[n]["day"][5:] for n in ticks])
    axis.set_ylabel("HR@20 of the next day, mean of 7 days")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, ncols=4, loc="lower center")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _moving(days: list[dict[str, Any]], kind: str, last: int) -> float:
    return mean(days[max(last - 6, 0) : last + 1], kind)


def mean(days: list[dict[str, Any]], kind: str) -> float:
    """HR@20 over all purchases of these days."""
    return float(np.average([d[kind] for d in days], weights=[d["purchases"] for d in days]))


def new_items(days: list[dict[str, Any]]) -> dict[str, Any]:
    """Purchases of new items on these days, and HR@20 of them."""
    count = sum(day["new"] for day in days)
    rates = {k: round(sum(d[f"{k} new hits"] for d in days) / count, 4) for k in KINDS if count}
    return {"purchases": count, "hr@20": rates}


def rounds_needed(days: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean rounds until a goal is reached, over the evenings that can be compared."""
    found = [day for day in days if all(day[f"{kind} {METRIC}"] for kind in KINDS[:3])]
    warm, cold, long = ([day[f"{kind} {METRIC}"] for day in found] for kind in KINDS[:3])
    ends = [values[-1] for values in cold]
    return {
        "evenings": len(found),
        "to the end of the cold run": {
            "warm": _first_at(warm, ends), "cold": _first_at(cold, ends)
        },
        "to the start of the warm run": {"long cold": _first_at(long, [v[0] for v in warm])},
    }  # fmt: skip


def _first_at(curves: list[list[float]], goals: list[float]) -> dict[str, Any]:
    """Of the curves that reach their goal, the mean of the first round that does."""
    first = [
        next((n for n, value in enumerate(values) if value >= goal), None)
        for values, goal in zip(curves, goals, strict=True)
    ]
    reached = [n for n in first if n is not None]
    return {"reached": len(reached), "rounds": round(float(np.mean(reached)), 2)} if reached else {
        "reached": 0
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=bundled_sample())
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--until", default="", help="only the log before this day, YYYY-MM-DD")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument(
        "--slower", type=float, default=10.0,
        help="so many times as long a training takes the slow node; 0: no node is slow, and rounds "
        "wait for all",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=2, help="of an evening, warm and cold")
    parser.add_argument("--long-rounds", type=int, default=12)
    parser.add_argument(
        "--runs", type=Path, help="keep the runs here; those there are not repeated"
    )
    parser.add_argument(
        "--only", default="", choices=["", "warm", "cold"],
        help="only train these, into --runs, and write no results: for two processes at a time",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a picture goes beside it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    days: list[dict[str, Any]] = []
    facts = {
        "data": options.folder.name, "until": options.until, "days": options.days,
        "nodes": options.nodes, "slower": options.slower, "close_at": CLOSE_AT,
        "rounds": options.rounds, "long_rounds": options.long_rounds,
        "versions": library_versions(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        for result in month(options, options.runs or Path(place)):
            days.append(result)
            print(json.dumps(result), flush=True)
            write_json(options.out, {**facts, "evenings": days})
    if options.only:
        return
    sold = [day for day in days if day["purchases"]]
    totals = {kind: round(mean(sold, kind), 4) for kind in KINDS}
    cost = {k: round(sum(d[f"{k} cpu_seconds"] for d in days), 1) for k in KINDS if k != "frozen"}
    new = new_items(sold)
    write_json(
        options.out,
        {**facts, "hr@20": totals, "new": new, "rounds_needed": rounds_needed(days),
         "cpu_seconds": cost, "evenings": days},
    )  # fmt: skip
    draw(days, options.out.with_suffix(".png"))
    print(json.dumps({
        "hr@20": totals, "new": new, "rounds_needed": rounds_needed(days), "cpu_seconds": cost,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
