"""Was a user among those that a model was trained on? What kept and published models tell.

Whoever has a model can ask: the owner of a node that keeps the global models it received
(``keep-model``), and everybody who gets an exported one. Users are split into three equal parts:
*members*, on whom a federation trains; *outsiders*, on whom nobody trains; and users whom the
attacker knows, on whom it trains *reference* models in the same way. Only the training part of a
history counts, for both.

- ``loss``: members have a lower next-item loss (Yeom et al., CSF 2018).
- ``ratio``: the same, less the mean loss of the reference models, which corrects for users who are
  easy for any model (Watson et al., ICLR 2022; the offline attack of Carlini et al., S&P 2022,
  without its variances, for which there are too few reference models).

Models: ``final``, the best round of a run, which nodes keep and `lumos export` publishes, and
``latest``, the last round's, which nodes keep as well.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumos_core.config import RunConfig, Scalar
from lumos_core.data.catalog import Catalog
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.experiments.inference.leakage import area_under_curve
from lumos_core.learning.parameters import ModelShape, Params

Floats = NDArray[np.float64]
NODES = 8
REFERENCES = 2
FALSE_POSITIVES = 0.05
"""Share of the outsiders that may be taken for members, in ``tpr``."""
ROUNDS: tuple[int, ...] = (5, 10)
MEMBER_SETTINGS: dict[str, Mapping[str, Scalar]] = {
    "none, or secure aggregation": {},
    "user-level noise 0.5": {"dp": "user", "item-rows": "all", "dp-noise-multiplier": 0.5},
    "user-level noise 2": {"dp": "user", "item-rows": "all", "dp-noise-multiplier": 2.0},
}
"""Under secure aggregation the models are those of the plain run but for rounding."""

Found = dict[str, Any]


def audit_membership(
    data: Path,
    base: RunConfig,
    *,
    seeds: Sequence[int],
    rounds: Sequence[int] = ROUNDS,
    on_row: Callable[[Found], None] = lambda row: None,
) -> list[Found]:
    """Attack the models of federations with every setting and length, for every seed.

    Args:
        data: folder made by `lumos prepare`; its users are split anew for every seed.
        base: the configuration that settings change; its method must not need views.
        rounds: lengths of the runs; with noise only the last one.

    Returns:
        A row for each setting, length, model and attack, with the values of all seeds.
    """
    catalog, parts = load_prepared(data)
    users = Sequences.concat(parts)
    rows: dict[tuple[str, int, str, str], Found] = {}
    for name, changes in MEMBER_SETTINGS.items():
        for length in rounds[-1:] if changes else rounds:
            for seed in seeds:
                own = {"rounds": length, "seed": seed, "patience": 0}
                nodes = {"min-nodes": NODES, "min-replies": NODES}
                config = RunConfig.from_flat({**base.to_flat(), **changes, **own, **nodes})
                for (model, attack), found in attack_models(catalog, users, config).items():
                    key = (name, length, model, attack)
                    row = rows.setdefault(key, _row(*key))
                    row["auc"].append(found[0])
                    row["tpr"].append(found[1])
                    row["epsilon"] = found[2]
            for key, row in rows.items():
                if key[:2] == (name, length):
                    on_row(row)
    return list(rows.values())


def _row(setting: str, rounds: int, model: str, attack: str) -> Found:
    return {
        "setting": setting, "rounds": rounds, "model": model, "attack": attack, "auc": [],
        "tpr": [], "epsilon": None,
    }  # fmt: skip


def attack_models(
    catalog: Catalog, users: Sequences, config: RunConfig
) -> dict[tuple[str, str], tuple[float, float, float | None]]:
    """One federation, attacked: (model, attack) → AUC, true positives, and the ε it has spent."""
    rng = np.random.default_rng([config.seed, len(users)])
    members, outsiders, known = np.array_split(rng.permutation(len(users)), 3)
    models, epsilon = train_models(catalog, users.subset(members), config)
    references = [
        train_models(catalog, users.subset(part), config.replace(seed=config.seed + 1000))[0]
        for part in np.array_split(rng.permutation(known), REFERENCES)
    ]
    asked = np.concatenate([members, outsiders])
    truth = np.arange(len(asked)) < len(members)
    train = LeaveOneOut(users.subset(asked)).train()
    out = {}
    for name, params in models.items():
        losses = user_losses(params, config, train, len(catalog))
        usual = np.mean(
            [user_losses(r[name], config, train, len(catalog)) for r in references], axis=0
        )
        for attack, scores in (("loss", -losses), ("ratio", usual - losses)):
            auc = area_under_curve(truth, scores)
            out[name, attack] = (float(auc or 0.5), true_positives(truth, scores), epsilon)
    return out


def train_models(
    catalog: Catalog, users: Sequences, config: RunConfig
) -> tuple[dict[str, Params], float | None]:
    """A federation's models, by the names that nodes keep them under, and its ε.

    The models are read from what the run leaves on the disk.
    """
    from lumos_core.federation.simulate import simulate
    from lumos_core.runs.checkpoint import LATEST, load_checkpoint

    parts = [users.subset(part) for part in np.array_split(np.arange(len(users)), NODES)]
    with tempfile.TemporaryDirectory() as folder:
        result = simulate(config, catalog, parts, run_dir=Path(folder))
        latest = load_checkpoint(Path(folder) / LATEST).params
    spent = result.epsilon
    return {"final": result.params, "latest": latest}, (
        spent if spent is not None and math.isfinite(spent) else None
    )


def user_losses(params: Params, config: RunConfig, train: Sequences, items: int) -> Floats:
    """The mean next-item loss of each user's history: float64 [U]; 0 for a single item."""
    import torch
    import torch.nn.functional as F

    from lumos_core.learning.batching import pad
    from lumos_core.learning.model import build_model, set_params

    model = build_model(ModelShape.of(config, items))
    set_params(model, params)
    model.eval()
    found = np.zeros(len(train))
    with torch.inference_mode():
        for start in range(0, len(train), 64):
            histories = [train[u] for u in range(start, min(start + 64, len(train)))]
            padded, _ = pad(histories, config.max_len)
            tokens = torch.from_numpy(padded)
            scores = model.scores(model(tokens[:, :-1]))  # [B, T - 1, N]
            targets = tokens[:, 1:]
            loss = F.cross_entropy(
                scores.flatten(0, 1), (targets - 1).clamp_min(0).flatten(), reduction="none"
            ).view(targets.shape)
            real = targets > 0
            mean = (loss * real).sum(1) / real.sum(1).clamp_min(1)
            found[start : start + len(histories)] = mean.numpy()
    return found


def true_positives(truth: NDArray[np.bool_], scores: Floats) -> float:
    """The share of members above all but :data:`FALSE_POSITIVES` of the outsiders."""
    bar = np.quantile(scores[~truth], 1 - FALSE_POSITIVES)
    return float((scores[truth] > bar).mean())
