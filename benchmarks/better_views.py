"""What views would bring that knew more: the true next item, for a share of the users.

    python benchmarks/better_views.py DATA [--seeds 0,1] [--shares 0,1] [--out FILE] [-c KEY=VALUE]

DATA is a folder of `lumos prepare`. Nothing here can stand for a better language model, but what it
could know at best can: for a share of the users, drawn by the seed, the future begins with the
validation item, which is what truly came next, and lacks its last item. All other items of views
are TF-IDF's, which are right as often as the language model's (`view_quality.py`). The model is
measured on the *test* items, of which no view knows anything.

Three objectives learn from such views: the contrast of LUMOS; the contrast, and all items of the
future as targets; and only the first item of the future, as a target, so that a view that is right
says nothing that is wrong.

Because such views teach what validation asks for, validation chooses nothing here: the number of
rounds and the weight of titles are those of `fedavg-plus` with the same seed, for all rows. The
last row trains on the validation items as parts of the histories: it shows what there is to be
learned from the next item. In brackets: the 95 % interval of the relative difference to
`fedavg-plus`, from a paired bootstrap over users and seeds.
"""

import argparse
from collections.abc import Mapping, Sequence
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
from lumos_core.federation.round_loop import FederationResult
from lumos_core.federation.simulate import ViewsOf, prepared_views, simulate
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table
from lumos_core.views.view import Views, ViewSource

RESULTS = Path(__file__).parent / "results"
ONE_TARGET = "one target"
OBJECTIVES: Mapping[str, Mapping[str, float]] = {
    "contrast": {},
    "contrast and targets": {"view_target_weight": 0.2},
    ONE_TARGET: {"contrastive_weight": 0.0, "view_target_weight": 0.2},
}
METRICS = ("hr@20", "ndcg@20")
Way = tuple[str, float | None]
"""A way of training: its name, and of how many users views know the next item."""
NO_VIEWS: Way = ("no views", None)
LONGER: Way = ("no views, histories one item longer", None)


def knowing(views_of: ViewsOf, next_item: Mapping[str, int], most: int | None = None) -> ViewsOf:
    """Views whose future begins with the next item, for the users of whom it is given.

    Args:
        views_of: where views come from.
        next_item: by user.
        most: of the future, only so many items are kept.
    """

    def source_of(node: str) -> ViewSource:
        source = views_of(node)

        def views(histories: Sequences) -> Views:
            found = {}
            for u, written in source(histories).items():
                item = next_item.get(histories.user_ids[u])
                future = written.future if item is None else _with_first(item, written.future)
                found[u] = written._replace(future=future[:most])
            return found

        return views

    return source_of


def _with_first(item: int, items: tuple[int, ...]) -> tuple[int, ...]:
    """As many items as before; the first is given."""
    others = [i for i in items if i != item]
    return (item, *others[: len(items) - 1])


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


def measure(data: Path, config: RunConfig, shares: Sequence[float]) -> dict[Way, np.ndarray]:
    """With one seed: a way of training → the rank of every user's test item, float [U]."""
    ground = Ground.of(data, "drawn", config.seed)
    config = config.replace(min_nodes=len(ground.nodes), min_replies=1)
    found: dict[Way, np.ndarray] = {}

    def train(
        way: Way, run: RunConfig, nodes: Mapping[str, Sequences], views: ViewsOf | None = None
    ) -> FederationResult:
        result = simulate(run, ground.catalog, nodes, views_of=views)
        users, weight = ground.pooled.users, result.title_weight
        ranks, _ = final_ranks(run, result.params, users, ground.catalog, weight)
        found[way] = ranks["test"]
        print(data.name, f"seed {config.seed}", *way, f"round {result.best_round}", flush=True)
        return result

    plain = config.replace(method="fedavg-plus")
    chosen = train(NO_VIEWS, plain, ground.nodes)
    fixed = {
        "rounds": chosen.best_round, "evaluate_every": chosen.best_round, "patience": 0,
        "title_weight": chosen.title_weight,
    }  # fmt: skip
    for name, changes in OBJECTIVES.items():
        run = config.replace(method="lumos", views="tfidf", **changes, **fixed)
        views = prepared_views(run, ground.catalog, ground.folder, shared=True)
        for share in shares:
            known = some_users(ground, share, config.seed)
            most = 1 if name == ONE_TARGET else None
            train((name, share), run, ground.nodes, knowing(views, known, most))
    longer = {name: with_one_more(users) for name, users in ground.nodes.items()}
    train(LONGER, plain.replace(**fixed), longer)
    return found


def facts(data: str, runs: list[dict[Way, np.ndarray]]) -> list[dict[str, Any]]:
    """A row for each way of training: its means, and its differences to training without views."""
    rows, paired = [], Bootstrap(len(runs[0][NO_VIEWS]))
    for way in runs[0]:
        name, share = way
        fact: dict[str, Any] = {"data": data, "training": name, "share": share, "seeds": len(runs)}
        for metric in METRICS:
            ours, base = (
                user_metric(np.stack([run[which] for run in runs]), metric)
                for which in (way, NO_VIEWS)
            )
            interval = None if way == NO_VIEWS else paired.relative(ours, base)
            fact[metric] = round(float(ours.mean()), 4)
            fact[f"{metric} against no views"] = interval and [round(x, 4) for x in interval]
        rows.append(fact)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    header = ("data", "seeds", "training", "users whose next item views know", "HR@20", "NDCG@20",
              "HR@20 against no views", "NDCG@20 against same")  # fmt: skip
    return markdown_table(header, [
        [
            row["data"], str(row["seeds"]), row["training"],
            "–" if row["share"] is None else f"{row['share']:.0%}",
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
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--shares", default="0,1", help="comma-separated, 0 to 1; '': no views")
    parser.add_argument("--out", type=Path, help="JSON; a table goes beside it")
    parser.add_argument("-c", dest="settings", action="append", metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = RunConfig(rounds=80, patience=8, aggregation="mean", clip="none", max_weight_ratio=10)
    config = with_overrides(base, options.settings)
    shares = [float(share) for share in options.shares.split(",") if share]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs = [measure(options.data, config.replace(seed=seed), shares) for seed in seeds]
    rows = facts(options.data.name, runs)
    out = options.out or RESULTS / f"better_views_{options.data.name}.json"
    write_json(out, {
        "config": config.without_paths(), "seeds": seeds, "versions": library_versions(),
        "rows": rows,
    })  # fmt: skip
    text = table(rows)
    write_atomically(out.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
