"""Examples at the end of a run on the bundled sample: users' histories and views, as titles."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from lumos_core.config import NodeConfig
from lumos_core.data import Catalog
from lumos_core.data.sample import is_bundled, is_of_bundled_user
from lumos_core.data.splits import split_of
from lumos_core.runs.report_page import Example
from lumos_core.views.source import stored_views
from lumos_core.views.view import UserViews

if TYPE_CHECKING:  # imports polars
    from lumos_core.deployment.plan import LocalPlan

USERS = 3
_SHOWN = 4  # items of a row
_LENGTHS = range(4, 13)  # of histories that are easy to read


def demo_examples(plan: "LocalPlan") -> list[Example]:
    """Three users of the bundled sample with their views, if any are stored; of other data nobody,
    as the histories of their users are shown on request only (``lumos views show``)."""
    if not plan.config.has_views or not is_bundled(plan.catalog):
        return []
    return [
        Example(
            user,
            [
                ("history", _titles(plan.catalog, history)),
                ("future", _titles(plan.catalog, views.future)),
                ("paraphrase", _titles(plan.catalog, views.paraphrase)),
                ("counterfactual", _titles(plan.catalog, views.counterfactual)),
            ],
        )
        for user, history, views in _examples(plan)
        if is_of_bundled_user(user, map(plan.catalog.item_id, history))
    ]


def print_examples(console: Console, plan: "LocalPlan", examples: Sequence[Example]) -> None:
    """Print what :func:`demo_examples` found; for other data, how to see a user's views."""
    if not is_bundled(plan.catalog):
        console.print(
            f"   views  lumos views show {plan.data} --user ID  shows those of a user",
            highlight=False,
        )
        return
    for example in examples:
        console.print(
            f"\ncustomer {example.user} of the bundled sample", style="bold", highlight=False
        )
        for name, titles in example.rows:
            console.print(f"{name:>14}  {titles}", markup=False, highlight=False, soft_wrap=True)


def _titles(catalog: Catalog, items: Sequence[int]) -> str:
    """The last items of a row, which count most."""
    before = "… " if len(items) > _SHOWN else ""
    return before + " · ".join(catalog.title(item) for item in items[-_SHOWN:])


def _examples(plan: "LocalPlan") -> Iterator[tuple[str, list[int], UserViews]]:
    """Users whose views are in their node's store, taken from each node in turn."""
    found = []
    for folder, sequences in zip(plan.folders, plan.sequences, strict=True):
        split = split_of(plan.config, sequences)
        train, names = split.train(), split.sequences.user_ids
        some = [u for u in range(len(train)) if len(train[u]) in _LENGTHS]
        node = NodeConfig.from_flat({"data": str(folder.resolve()), **plan.node_settings})
        views = stored_views(plan.config, node, plan.catalog, train.subset(some))
        found.append([(names[some[u]], train[some[u]].tolist(), v) for u, v in views.items()])
    in_turn = [users[n] for n in range(USERS) for users in found if n < len(users)]
    yield from in_turn[:USERS]
