"""What views would bring that knew more: the true next item, for a share of the users.

    python benchmarks/better_views.py DATA [DATA …] [--out FILE] [-c KEY=VALUE]

DATA are folders of `lumos prepare`. Nothing here can stand for a better language model, but what it
could know at best can: of a share of the users, drawn by the seed, one of the items of the future
is replaced by the validation item, which is what truly came next. All other items of views
are TF-IDF's, which are right as often as the language model's (`view_quality.py`). The model is
then measured on the *test* items, of which views know nothing.

Because such views teach what validation asks for, validation chooses nothing: the number of rounds
and the weight of titles are those of the run whose views know nothing, and the last model counts.
The last row trains on the validation items as parts of the histories: more than this, no view of
the future can bring. In brackets: the 95 % interval of the relative difference to `fedavg-plus`,
from a paired bootstrap over users.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumos_core.cli.options import with_overrides
from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.experiments.comparison.intervals import Bootstrap, user_metric
from lumos_core.experiments.comparison.variant_runs import Ground, final_ranks
from lumos_core.experiments.jobs import library_versions
from lumos_core.federation.simulate import ViewsOf, prepared_views, simulate
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table
from lumos_core.views.view import UserViews, Views, ViewSource

RESULTS = Path(__file__).parent / "results" / "better_views.json"
SHARES = (0.0, 0.1, 0.3, 1.0)
OBJECTIVES: Mapping[str, Mapping[str, float]] = {
    "contrast": {},
    "contrast and targets": {"view_target_weight": 0.2},
}
METRICS = ("hr@20", "ndcg@20")


@dataclass(frozen=True)
class Row:
    """A way of training, and the rank of every user's test item: float [U]."""

    name: str
    share: float | None
    ranks: np.ndarray


def knowing(views_of: ViewsOf, next_item: Mapping[str, int]) -> ViewsOf:
    """Views whose future has the next item, for the users of whom it is given."""

    def source_of(node: str) -> ViewSource:
        source = views_of(node)

        def views(histories: Sequences) -> Views:
            return {
                u: _with_next(found, next_item.get(histories.user_ids[u]))
                for u, found in source(histories).items()
            }

        return views

    return source_of


def _with_next(views: UserViews, item: int | None) -> UserViews:
    if item is None or item in views.future:
        return views
    return views._replace(future=(item, *views.future[1:]))


def some_users(ground: Ground, share: float, seed: int) -> dict[str, int]:
    """The validation items of a share of all users, by user. A larger share has the users of a
    smaller one."""
    _, targets = ground.split.validation()
    order = np.random.default_rng(seed).permutation(len(targets))
    users = ground.pooled.users.user_ids
    return {users[u]: int(targets[u]) for u in order[: round(share * len(order))]}


def with_one_more(users: Sequences) -> Sequences:
    """Histories whose training part is one item longer: what is held out begins one item later."""
    return Sequences.from_lists(
        [[*users[u].tolist(), int(users[u][-1])] for u in range(len(users))], users.user_ids
    )


def measure(data: Path, config: RunConfig) -> list[Row]:
    """All rows of a data set."""
    ground = Ground.of(data, "drawn", config.seed)
    config = config.replace(min_nodes=len(ground.nodes), min_replies=1)

    def trained(name: str, run: RunConfig, views: ViewsOf | None, share: float | None) -> Row:
        result = simulate(run, ground.catalog, ground.nodes, views_of=views)
        ranks, _ = final_ranks(
            run, result.params, ground.pooled.users, ground.catalog, result.title_weight
        )
        print(data.name, name, share, f"round {result.best_round}", flush=True)
        return Row(name, share, ranks["test"])

    def settled(run: RunConfig, views: ViewsOf | None) -> RunConfig:
        """Rounds and weight of titles fixed to what validation chooses without such knowledge."""
        result = simulate(run, ground.catalog, ground.nodes, views_of=views)
        rounds = result.best_round
        return run.replace(
            rounds=rounds, patience=0, evaluate_every=rounds, title_weight=result.title_weight
        )

    plain = settled(config.replace(method="fedavg-plus"), None)
    rows = [trained("no views", plain, None, None)]
    for name, changes in OBJECTIVES.items():
        run = config.replace(method="lumos", views="tfidf", **changes)
        views = prepared_views(run, ground.catalog, ground.folder, shared=True)
        run = settled(run, views)
        for share in SHARES:
            known = some_users(ground, share, config.seed)
            rows.append(trained(name, run, knowing(views, known), share))
    ground = replace(ground, nodes={n: with_one_more(u) for n, u in ground.nodes.items()})
    return [*rows, trained("no views, histories one item longer", plain, None, None)]


def facts(data: str, rows: list[Row]) -> list[dict[str, Any]]:
    """A row's means, and its differences to the first."""
    base, paired = rows[0].ranks, Bootstrap(len(rows[0].ranks))
    found = []
    for row in rows:
        fact: dict[str, Any] = {"data": data, "training": row.name, "share": row.share}
        for metric in METRICS:
            ours, theirs = (user_metric(ranks[None], metric) for ranks in (row.ranks, base))
            interval = None if row is rows[0] else paired.relative(ours, theirs)
            fact[metric] = round(float(ours.mean()), 4)
            fact[f"{metric} against no views"] = interval and [round(x, 4) for x in interval]
        found.append(fact)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    header = ("data", "training", "users whose next item views know", "HR@20", "NDCG@20",
              "HR@20 against no views", "NDCG@20 against same")  # fmt: skip
    return markdown_table(header, [
        [
            row["data"], row["training"], "–" if row["share"] is None else f"{row['share']:.0%}",
            *(f"{row[metric]:.4f}" for metric in METRICS),
            *(_percent(row[f"{metric} against no views"]) for metric in METRICS),
        ]
        for row in rows
    ])  # fmt: skip


def _percent(interval: list[float] | None) -> str:
    if interval is None:
        return "–"
    middle, low, high = (100 * part for part in interval)
    return f"{middle:+.1f}% [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a table goes beside it")
    parser.add_argument("-c", dest="settings", action="append", metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = RunConfig(rounds=80, patience=8, aggregation="mean", clip="none", max_weight_ratio=10)
    config = with_overrides(base, options.settings)
    rows: list[dict[str, Any]] = []
    for data in options.data:
        rows += facts(data.name, measure(data, config))
        write_json(options.out, {
            "config": config.without_paths(), "versions": library_versions(), "rows": rows,
        })  # fmt: skip
        write_atomically(options.out.with_suffix(".md"), table(rows).encode())
    print(table(rows))


if __name__ == "__main__":
    main()
