import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lumos_core.data import Catalog, LeaveOneOut, Sequences, partition_users
from lumos_core.data.filtering import core_mask, drop_duplicates
from lumos_core.data.interactions import read_interactions
from lumos_core.data.node_folder import read_node
from lumos_core.data.partition import Partition
from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared
from lumos_core.data.reading.ids import PLACEHOLDERS
from lumos_core.data.reading.text_files import text_blocks
from lumos_core.data.reading.title_text import clean_title, unquoted, usable_title
from lumos_core.errors import DataError

KEPT = "\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2066\u2069\xad\u180e\ufeff\ufe0f\u061c"
SPACES = (
    "".join(map(chr, [*range(0x21), *range(0x7F, 0xA1), *range(0x2000, 0x200B)]))
    + "\u1680\u2028\u2029\u202f\u205f\u3000"
)

text = st.text(min_size=1, max_size=12)
ids = text.map(lambda s: clean_title(s).strip()).filter(bool)
titles = text.map(clean_title).map(unquoted).filter(bool)
histories = st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=12), max_size=12)
schemes = st.sampled_from(get_args(Partition))
pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=80)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    item_ids = draw(st.lists(ids, min_size=1, max_size=8, unique=True))
    return Catalog(tuple(item_ids), tuple(draw(titles) for _ in item_ids))


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[str, str, int]]:
    """Interactions with pairwise different times."""
    rows = draw(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("0123")), max_size=60)
    )
    times = draw(st.permutations(range(len(rows))))
    return [(user, item, time) for (user, item), time in zip(rows, times, strict=True)]


def write_log(path: Path, rows: list[tuple[str, str, int]]) -> None:
    lines = ["\t".join(map(str, row)) for row in [("user_id", "item_id", "timestamp"), *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


@given(catalogs())
def test_catalog_round_trip(catalog: Catalog) -> None:
    with folder() as tmp:
        catalog.write(tmp / "catalog.tsv")
        again = Catalog.read(tmp / "catalog.tsv")
    assert again == catalog
    assert again.fingerprint == catalog.fingerprint
    for index, item_id in enumerate(catalog.item_ids, start=1):
        assert again.index(item_id) == index
        assert again.item_id(index) == item_id


@given(catalogs(), catalogs())
def test_equal_fingerprints_mean_equal_catalogs(a: Catalog, b: Catalog) -> None:
    assert (a.fingerprint == b.fingerprint) == (a == b)


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(SPACES + KEPT)))
def test_cleaning_titles_is_idempotent_and_keeps_all_but_a_fixed_set(title: str) -> None:
    cleaned = clean_title(title)
    assert clean_title(cleaned) == cleaned
    spaced = "".join(" " if c in SPACES else c for c in title)
    assert cleaned == " ".join(word for word in spaced.split(" ") if word)
    assert [c for c in cleaned if c != " "] == [c for c in title if c not in SPACES]


@given(st.text(st.sampled_from("\ud800\udfff a\u200d")))
def test_cleaned_titles_can_be_written(title: str) -> None:
    assert clean_title(title).encode().decode().count("\ufffd") == sum(c >= "\ud800" for c in title)


@given(st.text(st.sampled_from(' "ab&;<>=lt\t')) | st.text())
def test_a_usable_title_is_one_that_a_catalog_takes(text: str) -> None:
    title = usable_title(text)
    assert title == clean_title(title)
    assert not title or Catalog(("1",), (title,)).titles == (title,)


@given(st.text(), st.integers(1, 40))
def test_blocks_join_to_the_file(content: str, block_bytes: int) -> None:
    assume(content)
    with folder() as tmp:
        (tmp / "a").write_bytes(content.encode())
        blocks = list(text_blocks(tmp / "a", block_bytes))
    ends = content if "\n" in content else content.replace("\r", "\n")  # old Macs'
    whole = ends.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", " ").encode()
    assert b"".join(block for _, block in blocks) == whole
    for (first, block), (following, _) in pairwise(blocks):
        assert following == first + block.count(b"\n")


@given(histories)
def test_split_is_a_partition_of_every_history_without_leaks(lists: list[list[int]]) -> None:
    split = LeaveOneOut(Sequences.from_lists(lists))
    train = split.train()
    valid_histories, valid_targets = split.validation()
    test_histories, test_targets = split.test()
    for u, full in enumerate(lists):
        assert [*train[u], valid_targets[u], test_targets[u]] == full
        assert train[u].tolist() == valid_histories[u].tolist()
        assert test_histories[u].tolist() == [*train[u], valid_targets[u]]


@given(histories, st.data())
def test_subsets_and_concatenation(lists: list[list[int]], data: st.DataObject) -> None:
    sequences = Sequences.from_lists(lists)
    n = len(lists)
    chosen = data.draw(st.lists(st.integers(0, n - 1)) if n else st.just([]))
    subset = sequences.subset(chosen)
    assert [items.tolist() for items in subset] == [lists[i] for i in chosen]
    both = Sequences.concat([subset, sequences])
    assert [items.tolist() for items in both] == [lists[i] for i in chosen] + lists
    assert both.user_ids == subset.user_ids + sequences.user_ids


@given(st.integers(1, 200), st.integers(1, 12), st.integers(0, 5), schemes)
def test_partition_gives_every_user_one_node(
    n: int, nodes: int, seed: int, scheme: Partition
) -> None:
    assume(nodes <= n)
    owners = partition_users(n, nodes, seed, scheme)
    sizes = np.bincount(owners, minlength=nodes)
    assert owners.shape == (n,)
    assert len(sizes) == nodes
    assert sizes.min() >= 1
    assert scheme == "skewed" or sizes.max() - sizes.min() <= 1
    assert (owners == partition_users(n, nodes, seed, scheme)).all()


@given(pairs, st.integers(0, 4), st.integers(0, 4))
def test_core_is_the_largest_that_meets_the_minima(
    rows: list[tuple[int, int]], min_user: int, min_item: int
) -> None:
    users, items = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    mask = core_mask(users, items, min_user, min_item)
    assert all(n >= min_user for n in Counter(users[mask].tolist()).values())
    assert all(n >= min_item for n in Counter(items[mask].tolist()).values())
    assert core_mask(users[mask], items[mask], min_user, min_item).all()
    alive = list(rows)  # the largest one, by removing one offending row at a time
    while True:
        of_user = Counter(user for user, _ in alive)
        of_item = Counter(item for _, item in alive)
        bad = [r for r in alive if of_user[r[0]] < min_user or of_item[r[1]] < min_item]
        if not bad:
            break
        alive.remove(bad[0])
    assert sorted(alive) == sorted(row for row, stays in zip(rows, mask, strict=True) if stays)


@given(logs(), st.data())
def test_duplicates_leave_the_distinct_rows(
    rows: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    repeated = [*rows, *data.draw(st.lists(st.sampled_from(rows)) if rows else st.just([]))]
    frame = pl.DataFrame(
        repeated,
        schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64},
        orient="row",
    )
    assert drop_duplicates(frame, "exact").rows() == rows
    once = drop_duplicates(frame, "item").rows()
    assert Counter((u, i) for u, i, _ in once) == Counter({(u, i) for u, i, _ in rows})
    assert all(t == min(s for v, j, s in rows if (v, j) == (u, i)) for u, i, t in once)


@given(logs(), st.randoms(use_true_random=False), st.integers(1, 3))
def test_prepared_data_do_not_depend_on_the_order_of_rows(
    rows: list[tuple[str, str, int]], random: Random, nodes: int
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    results = []
    with folder() as tmp:
        for name, content in (("a", rows), ("b", shuffled)):
            write_log(tmp / f"{name}.tsv", content)
            try:
                dataset = prepare(tmp / f"{name}.tsv", tmp / name, nodes=nodes, k_core=2, name="x")
            except DataError as error:
                assert not (tmp / name).exists()
                results.append(str(error).partition(": ")[2])
                continue
            files = sorted(path for path in (tmp / name).rglob("*") if path.is_file())
            results.append(
                repr([(path.relative_to(tmp / name), path.read_text()) for path in files])
            )
            catalog, parts = load_prepared(tmp / name)
            assert dataset.interactions == sum(len(part.items) for part in parts)
            for part in parts:
                for user, items in zip(part.user_ids, part, strict=True):
                    kept = {catalog.item_id(int(i)) for i in items}
                    mine = sorted((t, i) for u, i, t in rows if u == user and i in kept)
                    assert [catalog.item_id(int(i)) for i in items] == [i for _, i in mine]
    assert results[0] == results[1]


one_unit = st.one_of(
    st.just(st.integers(-(10**8) + 1, 10**8 - 1)), st.just(st.integers(10**17, 2**60))
)
# an id that stands between quotes cannot be told from a quoted id
plain_ids = ids.filter(
    lambda text: text.lower() not in PLACEHOLDERS and "." not in text and text[0] != '"'
)


@given(
    one_unit.flatmap(
        lambda time: st.lists(st.tuples(plain_ids, plain_ids, time), min_size=1, max_size=10)
    )
)
def test_logs_survive_every_format(rows: list[tuple[str, str, int]]) -> None:
    columns = ["user_id", "item_id", "timestamp"]
    frame = pl.DataFrame(
        rows, schema=dict(zip(columns, [pl.String] * 2 + [pl.Int64], strict=True)), orient="row"
    )
    with folder() as tmp:
        write_log(tmp / "a.tsv", rows)
        frame.write_csv(tmp / "a.csv")
        frame.write_parquet(tmp / "a.parquet")
        records = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
        (tmp / "a.jsonl").write_text("\n".join(records))
        for suffix in ("tsv", "csv", "parquet", "jsonl"):
            assert read_interactions(tmp / f"a.{suffix}").frame.rows() == rows, suffix


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_node_folder_round_trip(users: list[str]) -> None:
    counts = Counter(users)
    catalog = Catalog(tuple(map(str, range(len(users)))), tuple(f"t{n}" for n in range(len(users))))
    with folder() as tmp:
        catalog.write(tmp / "catalog.tsv")
        write_log(tmp / "interactions.tsv", [(u, str(n), n) for n, u in enumerate(users)])
        if max(counts.values()) < 3:
            with pytest.raises(DataError, match="found no user with at least 3"):
                read_node(tmp)
            return
        _, sequences = read_node(tmp)
    long = sorted(user for user, count in counts.items() if count >= 3)
    assert sequences.user_ids == tuple(long)
    assert sequences.left_out == len(counts) - len(long)
    for user, items in zip(sequences.user_ids, sequences, strict=True):
        assert items.tolist() == [n + 1 for n, u in enumerate(users) if u == user]
