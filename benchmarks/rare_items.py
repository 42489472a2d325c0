"""What rare items cost: a model trained once, ranked with more and more of the titles' nearness.

    python benchmarks/rare_items.py DATA [DATA …] [--out FILE] [-c KEY=VALUE]

For each prepared folder a `fedavg-plus` is trained as in `lumos compare --partition drawn` with one
seed. Its best model then ranks all users with the nearness of titles added at many weights
(`sum`), with a mixture of the model's probabilities and those of titles, softmax(20 · cosine), in
many shares (`mixture`), with the two rankings interleaved (`turns`: of the first places the share
is titles'), and by titles alone. The table shows HR@20 and NDCG@20 of all targets, and
HR@20 of targets with fewer than five uses in training, on the test split; what validation would
choose is bold. So it shows what a higher weight of rare items takes from the others.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumos_core.cli.options import with_overrides
from lumos_core.config import RunConfig
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.experiments.comparison.rarity import RARE, target_counts
from lumos_core.experiments.comparison.variant_runs import Ground
from lumos_core.experiments.jobs import library_versions
from lumos_core.federation.simulate import prepared_views, simulate
from lumos_core.learning.batching import pad
from lumos_core.learning.metrics import means, ranking_sums
from lumos_core.learning.model import SASRec, build_model, set_params
from lumos_core.learning.parameters import ITEM_TABLE, ModelShape
from lumos_core.learning.title_nearness import TitleNearness, fused
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "rare_items.json"
WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
TURNS = (0.1, 0.25, 0.5)
SHARPNESS = 20.0  # of the titles' probabilities: softmax(20 · cosine)
BATCH = 512
Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores of the model and nearness of titles, both [B, N], and which items the user has met, bool
[B, N] → what is ranked."""


def mixture(share: float) -> Rule:
    def rule(scores: Tensor, near: Tensor, met: Tensor) -> Tensor:
        model, titles = scores.softmax(dim=1), (SHARPNESS * near).softmax(dim=1)
        return (1 - share) * model + share * titles

    return rule


def turns(share: float) -> Rule:
    def rule(scores: Tensor, near: Tensor, met: Tensor) -> Tensor:
        of_model, of_titles = (
            _places(ranked.masked_fill(met, -torch.inf)) / part
            for ranked, part in ((scores, 1 - share), (near, share))
        )
        return -torch.minimum(of_model, of_titles)

    return rule


def _places(scores: Tensor) -> Tensor:
    """float [B, N]: 1 for the best of a row, 2 for the next, …"""
    order = scores.argsort(dim=1, descending=True)
    places = torch.arange(1, scores.shape[1] + 1, dtype=scores.dtype).expand_as(scores)
    return torch.empty_like(scores).scatter_(1, order, places)


def rules() -> dict[str, Rule]:
    """All ways to rank, by name."""
    added = {
        f"sum {weight:g}": lambda scores, near, met, weight=weight: fused(scores, near, weight)
        for weight in WEIGHTS
    }
    mixed = {f"mixture {share:g}": mixture(share) for share in SHARES}
    shared = {f"turns {share:g}": turns(share) for share in TURNS}
    return {**added, **mixed, **shared, "titles alone": lambda scores, near, met: near}


def ranks_by_rule(
    model: SASRec, histories: Sequences, targets: np.ndarray, titles: TitleNearness
) -> dict[str, np.ndarray]:
    """float [U] for each rule: the rank of each user's target, its own history left out."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in rules()}
    for first in range(0, len(targets), BATCH):
        part = [histories[n] for n in range(first, min(first + BATCH, len(targets)))]
        items, lengths = pad(part, model.shape.max_len)
        with torch.inference_mode():
            last = model.encode_last(torch.from_numpy(items), torch.from_numpy(lengths))
            scores, near = model.scores(last), titles.near(part)
            met = torch.zeros_like(scores, dtype=torch.bool)
            for row, history in enumerate(part):
                met[row, torch.from_numpy(history.astype(np.int64) - 1)] = True
            wanted = torch.from_numpy(targets[first : first + BATCH].astype(np.int64) - 1)[:, None]
            for name, rule in rules().items():
                ranked = rule(scores, near, met).masked_fill(met, -torch.inf)
                target = ranked.gather(1, wanted)
                above = (ranked > target).sum(dim=1) + ((ranked == target).sum(dim=1) - 1) / 2
                found[name].append(above.numpy() + 1.0)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def measure(data: Path, config: RunConfig) -> list[dict[str, Any]]:
    """One row for each rule."""
    ground = Ground.of(data, "drawn", config.seed)
    views = prepared_views(config, ground.catalog, ground.folder, shared=True)
    config = config.replace(min_nodes=len(ground.nodes), min_replies=1)
    params = simulate(config, ground.catalog, ground.nodes, views_of=views).params
    model = build_model(ModelShape.of(config, len(params[ITEM_TABLE]) - 1), 0.0)
    set_params(model, params)
    users, titles = ground.pooled.users, TitleNearness.of(ground.catalog)
    rare, split = RARE.members(target_counts(users).astype(float)), LeaveOneOut(users)
    validation = ranks_by_rule(model.eval(), *split.validation(), titles)
    test = ranks_by_rule(model, *split.test(), titles)
    rows = [
        {"data": data.name, "rule": name, "rare users": int(rare.sum()),
         "validation": _metrics(validation[name]), "test": _metrics(test[name]),
         "rare": float((test[name][rare] <= 20).mean()) if rare.any() else None}
        for name in test
    ]  # fmt: skip
    for kind in ("sum", "mixture", "turns"):
        best = max(
            (row for row in rows if row["rule"].startswith(kind)),
            key=lambda row: row["validation"]["ndcg@20"],
        )
        best["chosen"] = True
    return rows


def _metrics(ranks: np.ndarray) -> dict[str, float]:
    found = means(ranking_sums(ranks))
    return {name: round(float(found[name]), 4) for name in ("hr@20", "ndcg@20")}


def table(rows: list[dict[str, Any]]) -> str:
    header = ("data", "ranked by", "HR@20", "NDCG@20", "HR@20 of rare targets", "of titles alone")
    alone = {row["data"]: row["rare"] for row in rows if row["rule"] == "titles alone"}
    return markdown_table(header, [_cells(row, alone) for row in rows])


def _cells(row: Mapping[str, Any], alone: Mapping[str, float | None]) -> list[str]:
    name = f"**{row['rule']}**" if row.get("chosen") else row["rule"]
    rare, titles = row["rare"], alone[row["data"]]
    share = "–" if rare is None or not titles else f"{rare / titles:.0%}"
    return [
        row["data"], name, f"{row['test']['hr@20']:.4f}", f"{row['test']['ndcg@20']:.4f}",
        "–" if rare is None else f"{rare:.4f}", share,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON; a table goes beside it")
    parser.add_argument("-c", dest="settings", action="append", metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = RunConfig(method="fedavg-plus", rounds=80, patience=8, aggregation="mean", clip="none",
                     max_weight_ratio=10)  # fmt: skip
    config = with_overrides(base, options.settings)
    rows = [row for data in options.data for row in measure(data, config)]
    write_json(options.out, {
        "config": config.without_paths(), "versions": library_versions(), "rows": rows,
    })  # fmt: skip
    text = table(rows)
    write_atomically(options.out.with_suffix(".md"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
