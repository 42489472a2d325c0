"""Results of `lumos compare`: tables in Markdown.

The first table says how good the variants are, the second what each part of a method adds, the
third how hits depend on the rarity of the target, two more whom they serve, one what they suggest,
the last what they cost. Results of earlier versions have
no ranks of users: their differences are paired by seed only, without an interval, and they are in
the first table alone. Where no result says how long the users' histories are, the two tables are
left out.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

import numpy as np

from lumos_core.experiments.comparison.fairness import LENGTHS, node_spread, user_spread
from lumos_core.experiments.comparison.intervals import Bootstrap, Floats, Interval, user_metric
from lumos_core.experiments.comparison.packed_ranks import CLIP, unpack_counts, unpack_ranks
from lumos_core.experiments.comparison.parts import PARTS
from lumos_core.experiments.comparison.rarity import CLASSES, RARE, CountClass, hit_rate
from lumos_core.experiments.comparison.tuning import TUNED, in_table
from lumos_core.experiments.comparison.variant_runs import (
    CLIPPED_TARGET_USES,
    HISTORY_LENGTHS,
    OWNERS,
    RANKS,
    SUGGESTED,
    TARGET_USES,
)
from lumos_core.experiments.comparison.variants import VARIANTS
from lumos_core.experiments.results_file import Result
from lumos_core.terminal.tables import markdown_table, spread

COMPARED_METRICS = ("hr@20", "ndcg@20")
BETTER, WORSE, LEVEL = "▲", "▼", "="
UNFINISHED = "†"
COST_HEADER = (
    "cost of a run", "best round", "rounds", "epochs", "CPU-s", "MB sent by nodes", "ended by",
    "tuned to",
)  # fmt: skip
SPREAD_HEADER = (
    "HR@20 of nodes and users", "nodes: mean", "deviation", "worst tenth", "users: worst tenth",
    "never hit",
)  # fmt: skip
SUGGESTIONS_HEADER = (
    "first 20 suggestions of all users", "share of the catalog", "uses in training",
    "uses, against those of targets",
)  # fmt: skip
_NONE = "–"

_LEGEND = f"""\
In brackets: the 95 % interval of the relative difference, from a paired bootstrap over users and
seeds. {BETTER} the whole interval is above zero on validation and on test; {WORSE} below zero on
both; {LEVEL} neither. Rare: targets with fewer than 5 uses in training. {UNFINISHED} a run ended at
its cap on rounds or epochs, not by patience.
"""
_PARTS_LEGEND = """\
What the method gains by a part, over the seeds that both have; marks as above. CPU-seconds and
bytes depend on when patience ended a run; the CPU-seconds of writing views are not in them.
"""
_SUGGESTIONS_LEGEND = """\
Means over seeds, on test. The share of the catalog that is suggested to anybody (coverage), and how
often a suggested item occurs in training; above 1 in the last column, what is suggested is more
popular than what users take.
"""
_FAIRNESS_LEGEND = """\
Nodes count the same, whatever their size; means over seeds. A user's HR@20 is that over all seeds,
on validation and test; never hit: in none of them. The worst tenth, of at least one node, is chosen
by these numbers, so chance alone puts it below the mean: compare it between variants.
"""


@dataclass(frozen=True)
class Difference:
    """A variant against the reference, in one metric: on test, and the sign on validation."""

    test: Interval
    validation: Interval

    def __str__(self) -> str:
        value, low, high = self.test
        signs = {self.test.sign, self.validation.sign}
        mark = {1: BETTER, -1: WORSE}.get(signs.pop(), LEVEL) if len(signs) == 1 else LEVEL
        return f"{value:+.1%} [{_percent(low)}, {_percent(high)}] {mark}"


@dataclass(frozen=True)
class Comparison:
    """Results side by side with a reference.

    Attributes:
        groups: the results of each variant, ordered by seed.
        reference: the variant that the others are compared with.
        bootstraps: draws by number of users, made when they are needed first.
    """

    groups: dict[str, list[Result]]
    reference: str
    bootstraps: dict[int, Bootstrap] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, results: Sequence[Result], reference: str) -> "Comparison":
        """Points of the tuning grid that were not chosen are left out."""
        return cls(by_variant(in_table(results)), reference)

    @property
    def has_ranks(self) -> bool:
        """Whether there is any result with the ranks of all users."""
        return any(RANKS in result for group in self.groups.values() for result in group)

    def mean(self, name: str, metric: str) -> str:
        """A test metric: mean ± standard deviation over seeds."""
        return spread([r["test"][metric] for r in self.groups[name]], "{:.4f}")

    def difference(self, name: str, metric: str) -> str:
        """The relative difference of a test metric to the reference."""
        if name == self.reference and self.has_ranks:
            return _NONE
        found = self.interval(name, metric) if name != self.reference else None
        if found is not None:
            return str(found)
        base = self.groups.get(self.reference, [])
        return spread(relative_differences(self.groups[name], base, metric), "{:+.1%}")

    def marked(self, name: str) -> str:
        """The name, with a mark if a run did not converge."""
        stopped = any(result.get("converged") is False for result in self.groups[name])
        return f"{name} {UNFINISHED}" if stopped else name

    def rarity(self, name: str) -> list[str]:
        """HR@20 for each class of rarity, as text."""
        return _as_text(self.rarity_rates(name))

    def rarity_rates(self, name: str) -> list[float | None]:
        """HR@20 for each class of rarity; None where it is not known."""
        return self._by_class(name, self.target_counts, CLASSES)

    def by_length(self, name: str) -> list[str]:
        """HR@20 for each class of lengths of the history, as text."""
        return _as_text(self.length_rates(name))

    def length_rates(self, name: str) -> list[float | None]:
        """HR@20 for each class of lengths of the history; None where it is not known."""
        return self._by_class(name, self.history_lengths, LENGTHS)

    def spreads(self, name: str) -> list[str]:
        """HR@20 of nodes (mean, deviation, worst tenth) and of users (worst tenth, never hit)."""
        group = [result for result in self.groups[name] if RANKS in result]
        of_nodes = node_spread(
            [
                (unpack_ranks(r[RANKS]["test"]), unpack_counts(r[OWNERS]))
                for r in group
                if OWNERS in r
            ]
        )
        of_users = user_spread(
            [unpack_ranks(r[RANKS][split]) for r in group for split in _splits_of_all(r)]
        )
        found: list[float] = [*(of_nodes or [math.nan] * 3), *(of_users or [math.nan] * 2)]
        texts = [_NONE if math.isnan(value) else f"{value:.4f}" for value in found]
        return [*texts[:-1], texts[-1] if math.isnan(found[-1]) else f"{found[-1]:.1%}"]

    @property
    def target_counts(self) -> Floats | None:
        """How often each user's test target occurs in training; None if no result says so."""
        found = self._first(TARGET_USES)
        if found is not None:
            return unpack_counts(found).astype(np.float64)
        clipped = self._first(CLIPPED_TARGET_USES)
        return None if clipped is None else unpack_ranks(clipped)

    @property
    def knows_exact_uses(self) -> bool:
        """Whether :attr:`target_counts` are not clipped, as those of earlier versions are."""
        return self._first(TARGET_USES) is not None

    @property
    def history_lengths(self) -> Floats | None:
        """The length of each user's training history; None if no result says so."""
        found = self._first(HISTORY_LENGTHS)
        return None if found is None else unpack_counts(found).astype(np.float64)

    def _first(self, key: str) -> str | None:
        """What the first result that has a key says about all users."""
        results = (result for group in self.groups.values() for result in group)
        return next((result[key] for result in results if result.get(key)), None)

    def _by_class(
        self, name: str, counts: Floats | None, classes: Sequence[CountClass]
    ) -> list[float | None]:
        ranks = [ranks_of(r, "test") for r in self.groups[name]]
        known = [row for row in ranks if row is not None]
        if counts is None or not known or any(row.shape != counts.shape for row in known):
            return [None] * len(classes)
        return [hit_rate(known, counts, members) for members in classes]

    def interval(self, name: str, metric: str) -> Difference | None:
        """The difference to the reference with its interval; None without ranks of the same users
        and seeds in both."""
        ours = {r["seed"]: r for r in self.groups[name] if RANKS in r}
        base = {r["seed"]: r for r in self.groups.get(self.reference, []) if RANKS in r}
        seeds = sorted(ours.keys() & base.keys())
        pairs = [(ours[seed], base[seed]) for seed in seeds]
        tested = self._relative(pairs, "test", metric)
        validated = self._relative(pairs, "validation", metric)
        return Difference(tested, validated) if tested and validated else None

    def _relative(
        self, pairs: Sequence[tuple[Result, Result]], split: str, metric: str
    ) -> Interval | None:
        rows = [ranks_of(result, split) for pair in pairs for result in pair]
        users = {len(row) for row in rows if row is not None}
        if len(users) != 1:
            return None
        (count,) = users
        values = user_metric(np.array(rows, dtype=np.float64), metric)
        if count not in self.bootstraps:
            self.bootstraps[count] = Bootstrap(count)
        return self.bootstraps[count].relative(values[::2], values[1::2])


def _splits_of_all(result: Result) -> tuple[str, ...]:
    """The splits in which the users of the test have a target: with a split by time, other users
    have one in validation."""
    by_time = result.get("config", {}).get("evaluation") == "last-days"
    return ("test",) if by_time else ("validation", "test")


def _as_text(rates: Sequence[float | None]) -> list[str]:
    return [_NONE if rate is None else f"{rate:.4f}" for rate in rates]


def ranks_of(result: Result, split: str) -> Floats | None:
    """The ranks of all users in a result, clipped; None if it has none."""
    return unpack_ranks(result[RANKS][split]) if RANKS in result else None


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results grouped by variant, each group ordered by seed; the groups in the order of
    :data:`~lumos_core.experiments.comparison.variants.VARIANTS`, others last, as they appear."""
    order = list(VARIANTS)
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result["variant"], []).append(result)
    names = sorted(groups, key=lambda n: order.index(n) if n in VARIANTS else len(order))
    return {name: sorted(groups[name], key=lambda r: r["seed"]) for name in names}


def comparison_table(results: Sequence[Result], reference: str) -> str:
    """All tables as Markdown."""
    comparison = Comparison.of(results, reference)
    header = ["variant", "seeds", "HR@20", "NDCG@20", f"HR@20 vs {reference}", "NDCG@20 vs same"]
    if not comparison.has_ranks:
        return markdown_table(header, table_rows(results, reference))
    return "\n".join(
        [
            markdown_table([*header, "HR@20, rare"], _quality(comparison)),
            *_by_time(comparison),
            _LEGEND,
            *_parts_table(comparison),
            _class_table(
                "uses of the target",
                CLASSES,
                comparison.target_counts,
                comparison.rarity,
                comparison.groups,
            ),
            *_fairness_tables(comparison),
            *_suggestions_table(comparison),
            _cost_table(comparison),
        ]
    )


def _by_time(comparison: Comparison) -> list[str]:
    """Where a split by time is, and how many users it measures; nothing for leave-one-out."""
    result = next(iter(comparison.groups.values()))[0]
    config = result.get("config", {})
    if config.get("evaluation") != "last-days" or RANKS not in result:
        return []
    users = {split: len(unpack_ranks(row)) for split, row in result[RANKS].items()}
    return [
        f"Split by time: trained on what is before {config['evaluate-from']}, validation up to "
        f"{config['test-from']} ({users['validation']} users), test from then on "
        f"({users['test']} users).\n"
    ]


def table_rows(results: Sequence[Result], reference: str) -> list[list[str]]:
    """One row per variant: test metrics as mean ± standard deviation over seeds, and the relative
    difference to the reference.

    Args:
        results: results of `lumos compare`.
        reference: the variant that all variants are compared with.
    """
    return [row[:-1] for row in _quality(Comparison.of(results, reference))]


def screen_table(results: Sequence[Result], reference: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows for the screen: only the columns that it has room for."""
    comparison = Comparison.of(results, reference)
    if not comparison.has_ranks:
        header = ["variant", "seeds", "HR@20", "NDCG@20", f"HR vs {reference}"]
        return header, [row[:-1] for row in table_rows(results, reference)]
    rows = []
    for name, group in comparison.groups.items():
        row = [comparison.marked(name)]
        for metric in COMPARED_METRICS:
            row.append(f"{mean(r['test'][metric] for r in group):.4f}")
            row.append("" if name == reference else comparison.difference(name, metric))
        rows.append(row)
    return ["variant", "HR@20", f"vs {reference}", "NDCG@20", "vs same"], rows


def _quality(comparison: Comparison) -> list[list[str]]:
    rare = CLASSES.index(RARE)
    return [
        [
            comparison.marked(name),
            str(len(group)),
            *(comparison.mean(name, metric) for metric in COMPARED_METRICS),
            *(comparison.difference(name, metric) for metric in COMPARED_METRICS),
            comparison.rarity(name)[rare],
        ]
        for name, group in comparison.groups.items()
    ]


def _class_table(
    by: str,
    classes: Sequence[CountClass],
    counts: Floats | None,
    rates: Callable[[str], list[str]],
    names: Iterable[str],
) -> str:
    """HR@20 by classes of users; the first row has the numbers of users."""
    users = [_NONE if counts is None else f"{int(c.members(counts).sum())}" for c in classes]
    header = [f"HR@20 by {by}", *(c.name for c in classes)]
    return markdown_table(header, [["users", *users], *([name, *rates(name)] for name in names)])


def _fairness_tables(comparison: Comparison) -> list[str]:
    """HR@20 by length of the history, and how it is spread over nodes and users."""
    lengths, names = comparison.history_lengths, comparison.groups
    if lengths is None:
        return []
    by_length = _class_table("length of the history", LENGTHS, lengths, comparison.by_length, names)
    spreads = markdown_table(SPREAD_HEADER, [[name, *comparison.spreads(name)] for name in names])
    legend = _FAIRNESS_LEGEND
    if _by_time(comparison):  # validation and test have other users
        legend = legend.replace("on validation and test;", "on test;")
    return [by_length, spreads, legend]


def _parts_table(comparison: Comparison) -> list[str]:
    """What each part of a method adds to quality and cost; none without variants that lack one."""
    rows = [
        _part(replace(comparison, reference=lacking), method, part)
        for method, parts in PARTS.items()
        if method in comparison.groups
        for lacking, part in parts.items()
        if lacking in comparison.groups
    ]
    header = ("part", "of", "without it", "HR@20", "NDCG@20", "CPU-s of a run", "MB sent by nodes")
    return [markdown_table(header, rows, align="lllr"), _PARTS_LEGEND] if rows else []


def _part(comparison: Comparison, method: str, part: str) -> list[str]:
    """A method against itself without a part, which is the comparison's reference."""
    seeds = {r["seed"] for r in comparison.groups[comparison.reference]}
    pair = [comparison.groups[method], comparison.groups[comparison.reference]]
    here = [[r for r in group if r["seed"] in seeds] for group in pair]
    seconds = [[r["cpu_seconds"] for r in group if "cpu_seconds" in r] for group in here]
    sent = [[sum(r["bytes_up"]) / 1e6 for r in group if "bytes_up" in r] for group in here]
    return [
        part,
        method,
        comparison.reference,
        *(comparison.difference(method, metric) for metric in COMPARED_METRICS),
        _added(seconds, "{:+.0f}"),
        _added(sent, "{:+.1f}"),
    ]


def _added(pair: Sequence[Sequence[float]], form: str) -> str:
    """The difference of two means; unknown if one has no values."""
    return form.format(mean(pair[0]) - mean(pair[1])) if all(pair) else _NONE


def _suggestions_table(comparison: Comparison) -> list[str]:
    """Coverage and popularity bias; none where no result has them."""
    rows = suggestion_rows(comparison)
    return [markdown_table(SUGGESTIONS_HEADER, rows), _SUGGESTIONS_LEGEND] if rows else []


def suggestion_rows(comparison: Comparison) -> list[list[str]]:
    """For each variant whose results have it what :data:`SUGGESTIONS_HEADER` names."""
    targets = comparison.target_counts
    rows = []
    for name, group in comparison.groups.items():
        known = [result[SUGGESTED] for result in group if result.get(SUGGESTED)]
        if known and targets is not None:
            uses = mean(facts["mean_uses"] for facts in known)
            coverage = mean(facts["coverage"] for facts in known)
            exact = targets.any() and (comparison.knows_exact_uses or targets.max() < CLIP)
            bias = f"{uses / targets.mean():.2f}" if exact else _NONE
            rows.append([name, f"{coverage:.1%}", f"{uses:.1f}", bias])
    return rows


def _cost_table(comparison: Comparison) -> str:
    """What a run costs: means over seeds."""
    return markdown_table(COST_HEADER, cost_rows(comparison))


def cost_rows(comparison: Comparison) -> list[list[str]]:
    """For each variant what :data:`COST_HEADER` names."""
    return [_cost(name, group) for name, group in comparison.groups.items()]


def _cost(name: str, group: Sequence[Result]) -> list[str]:
    sent = [result["bytes_up"] for result in group if "bytes_up" in result]
    epochs = [result["epochs"] for result in group if "epochs" in result]
    best = [result["best_round"] for result in group if result.get("bytes_up") is not None]
    seconds = [result["cpu_seconds"] for result in group if "cpu_seconds" in result]
    ended = {result.get("converged") for result in group} - {None}
    points = dict.fromkeys(filter(None, (r.get(TUNED) for r in group)))
    chosen = dict.fromkeys(
        f"{key} {value:g}" for r in group for key, value in r.get("chosen", {}).items()
    )
    return [
        name,
        f"{mean(best):.0f}" if best else _NONE,
        f"{mean(map(len, sent)):.0f}" if sent else _NONE,
        f"{mean(epochs):.0f}" if epochs else _NONE,
        f"{mean(seconds):.0f}" if seconds else _NONE,
        f"{mean(map(sum, sent)) / 1e6:.1f}" if sent else _NONE,
        "/".join(
            name for flag, name in ((True, "patience"), (False, "cap")) if flag in ended
        ) or _NONE,
        ", ".join([*points, *chosen]) or _NONE,
    ]  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:+.1f}"


def relative_differences(
    group: Sequence[Result], reference: Sequence[Result], metric: str
) -> list[float]:
    """``value / reference − 1`` of the test metric for every seed that both have."""
    base = {r["seed"]: r["test"][metric] for r in reference}
    return [
        r["test"][metric] / base[r["seed"]] - 1 if base[r["seed"]] else math.nan
        for r in group
        if r["seed"] in base
    ]
