"""The parts of the methods: which variant lacks which part of which method."""

from collections.abc import Mapping

PARTS: Mapping[str, Mapping[str, str]] = {
    "lumos": {
        "fedavg-plus": "views",
        "fedavg-plus-perturbed": "views, instead of random perturbations",
        "lumos-no-future": "views of the future",
        "lumos-no-paraphrase": "paraphrases",
        "lumos-no-counterfactual": "counterfactuals",
        "lumos-no-start": "start from titles",
        "lumos-no-titles": "nearness of titles in rankings",
        "lumos-all-rows": "rows of items never met left alone",
        "lumos-tfidf": "the language model, instead of TF-IDF",
        "lumos-tfidf-views": "views by the language model, instead of TF-IDF",
        "lumos-shuffled": "each user's own views, instead of another's",
        "lumos-random": "the content of views, instead of random items",
    },
    "fedavg-plus": {
        "fedavg": "all of what follows",
        "fedavg-plus-no-start": "start from titles",
        "fedavg-plus-no-titles": "nearness of titles in rankings",
        "fedavg-plus-all-rows": "rows of items never met left alone",
        "fedavg-plus-no-bias": "how popular an item is, as a number",
    },
    "fedavg-plus-bias": {
        "fedavg-plus": "how popular an item is, as a number",
    },
    "lumos-targets": {
        "lumos": "items of the future as targets",
    },
    "lumos-movers": {
        "fedavg-plus-movers": "views",
        "lumos": "a mean over the nodes that moved a row, instead of over all",
    },
    "fedavg-plus-perturbed": {
        "fedavg-plus": "contrast of random perturbations",
    },
    "lumos-root": {
        "fedavg-plus-root": "views",
        "lumos": "a mean between those over all nodes and over those that moved a row",
    },
    "fedavg-plus-root": {
        "fedavg-plus": "a mean between those over all nodes and over those that moved a row",
    },
    "fedavg-plus-movers": {
        "fedavg-plus": "a mean over the nodes that moved a row, instead of over all",
    },
}
"""By method, then by the variant that lacks it: a part of the method."""
