"""The variants of `lumos compare`: each is a name and what it changes in the configuration.

Everything that a variant does not change is equal for all: data, split, encoder, trainer, rounds,
local epochs, server optimiser, evaluation. With ``--tune``, each family of variants also chooses
from one grid (:mod:`lumos_core.experiments.comparison.tuning`).
"""

from lumos_core.config import BAG, METHODS, RunConfig, Scalar

Overrides = dict[str, Scalar]

LOCAL = "local"
COUNTED = ("markov-titles", "title-knn", "markov-3", "markov-1", "popularity")
"""Variants that count instead of train: keys of ``lumos_core.learning.counting.YARDSTICKS``."""
UNFEDERATED = frozenset(
    {
        "centralised", "centralised-start", "centralised-plus", "bag", "bag-start", "bag-plus",
        LOCAL, *COUNTED,
    }
)  # fmt: skip
"""Variants without rounds."""

_RANDOM_START: Overrides = {"semantic-start": "none"}

# in the order of a table's rows
VARIANTS: dict[str, Overrides] = {
    "lumos": {"method": "lumos"},
    # LUMOS without views: what needs no language model but its titles
    "fedavg-plus": {"method": "fedavg-plus"},
    "centralised-plus": {"method": "fedavg-plus"},
    # what LUMOS is compared with, with its semantic start and as published
    "fedavg-start": {"method": "fedavg"},
    "confedsrs-start": {"method": "confedsrs"},
    "centralised-start": {"method": "fedavg"},
    "fedavg": {"method": "fedavg", **_RANDOM_START},
    "confedsrs": {"method": "confedsrs", **_RANDOM_START},
    "centralised": {"method": "fedavg", **_RANDOM_START},
    "local": {"method": "fedavg", **_RANDOM_START},
    **{name: {} for name in COUNTED},
    "bag": {"method": "fedavg", "encoder": BAG, **_RANDOM_START},
    "bag-start": {"method": "fedavg", "encoder": BAG},
    "bag-plus": {"method": "fedavg-plus", "encoder": BAG},
    # ablations: what each part contributes
    "fedavg-plus-no-start": {"method": "fedavg-plus", **_RANDOM_START},
    "fedavg-plus-all-rows": {"method": "fedavg-plus", "item-rows": "all"},
    "fedavg-plus-bias": {"method": "fedavg-plus", "item-bias": "learned"},
    "fedavg-plus-no-bias": {"method": "fedavg-plus", "item-bias": "none"},
    "fedavg-plus-no-titles": {"method": "fedavg-plus", "title-weight": 0.0},
    "fedavg-plus-movers": {"method": "fedavg-plus", "row-mean": "movers"},
    "fedavg-plus-root": {"method": "fedavg-plus", "row-mean": "root"},
    "fedavg-plus-perturbed": {"method": "confedsrs-plus"},
    "lumos-root": {"method": "lumos", "row-mean": "root"},
    "lumos-movers": {"method": "lumos", "row-mean": "movers"},
    "lumos-all-rows": {"method": "lumos", "item-rows": "all"},
    "lumos-no-titles": {"method": "lumos", "title-weight": 0.0},
    "lumos-targets": {"method": "lumos", "view-target-weight": 0.2},
    "lumos-targets-only": {
        "method": "lumos",
        "view-target-weight": 0.2,
        "contrastive-weight": 0.0,
    },
    "lumos-no-start": {"method": "lumos", **_RANDOM_START},
    "lumos-no-future": {"method": "lumos", "use-future": False},
    "lumos-no-paraphrase": {"method": "lumos", "use-paraphrase": False},
    "lumos-no-counterfactual": {"method": "lumos", "use-counterfactual": False},
    "lumos-judges-all": {"method": "lumos", "llm-judges": "all"},
    # controls: is the language model worth its cost, does the content of views matter
    "lumos-tfidf": {"method": "lumos", "views": "tfidf", "semantic-start": "tfidf"},
    "lumos-tfidf-views": {"method": "lumos", "views": "tfidf"},
    "lumos-tfidf-start": {"method": "lumos", "semantic-start": "tfidf"},
    "lumos-shuffled": {"method": "lumos", "views": "shuffled"},
    "lumos-random": {"method": "lumos", "views": "random"},
}

NEED_OTHER_USERS = frozenset(
    {
        LOCAL,
        *(
            name
            for name, changes in VARIANTS.items()
            if "method" in changes and not METHODS[str(changes["method"])].per_user
        ),
    }
)
"""Variants that cannot be run with one user a client."""


def variant_config(name: str, base: RunConfig) -> RunConfig:
    """The common configuration with a variant's changes.

    Raises:
        KeyError: there is no such variant.
    """
    return RunConfig.from_flat({**base.to_flat(), **VARIANTS[name]})
