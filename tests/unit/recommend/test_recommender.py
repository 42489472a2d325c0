"""Recommendations: what is in them, where they come from, and the file they go into."""

import json
import stat
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.data import Catalog, Sequences
from lumos_core.errors import DataError, LumosError
from lumos_core.learning.evaluation import ranks_by_weight
from lumos_core.learning.model import SASRec, get_params, new_model
from lumos_core.learning.title_nearness import TitleNearness
from lumos_core.recommend.model_files import KEPT_LATEST, ModelCard, load_model, save_model
from lumos_core.recommend.recommender import Recommender, export_parquet


@pytest.fixture
def model(tiny, toy_catalog) -> SASRec:
    return new_model(tiny(), len(toy_catalog))


@pytest.fixture
def node(tmp_path: Path, tiny, toy_catalog, model) -> Path:
    """A node's data folder, with a kept model; users a, b and c have 1, 2 and 12 interactions."""
    toy_catalog.write(tmp_path / "catalog.tsv")
    rows = ["a\ti3\t1", "b\ti4\t1", "b\ti4\t2", *(f"c\ti{n}\t{n}" for n in range(1, 13))]
    (tmp_path / "interactions.tsv").write_text(
        "user_id\titem_id\ttimestamp\n" + "\n".join(rows) + "\n"
    )
    card = ModelCard.of(tiny(), len(toy_catalog), toy_catalog.fingerprint, 4, final=False)
    save_model(tmp_path / "state" / KEPT_LATEST, get_params(model), card)
    return tmp_path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in ("recommend", *arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_history_is_left_out_unless_asked_for(model, toy_catalog) -> None:
    history = list(range(1, 21))
    unseen = Recommender(model, toy_catalog, top=24).for_user(history)
    assert {r.item_id for r in unseen} == {"i21", "i22", "i23", "i24"}
    assert [r.rank for r in unseen] == [1, 2, 3, 4]
    everything = Recommender(model, toy_catalog, top=24, include_seen=True).for_user(history)
    assert len({r.item_id for r in everything}) == 24


def test_reasons_are_the_nearest_items_of_the_history(model, toy_catalog) -> None:
    table = get_params(model)["items.weight"].astype("f8")
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    history = [3, 9, 3, 17, 9, 5]
    found = Recommender(model, toy_catalog, top=5, reasons=3).for_user(history)
    assert any(len(r.reasons) < 3 for r in found)  # nothing else resembles it
    for r in found:
        cosine = {i: float(table[i] @ table[toy_catalog.index(r.item_id)]) for i in set(history)}
        alike = [i for i in set(history) if cosine[i] > 0]
        nearest = sorted(alike, key=lambda i: -cosine[i])[:3]
        assert [reason.item_id for reason in r.reasons] == [f"i{i}" for i in nearest]
        assert [reason.similarity for reason in r.reasons] == pytest.approx(
            [cosine[i] for i in nearest], abs=1e-5
        )


def test_reasons_come_from_what_the_model_has_read(model, toy_catalog) -> None:
    """With max-len 10, the encoder never sees the older items."""
    history = [20, 21, 22, *range(1, 11)]
    found = Recommender(model, toy_catalog, top=24, reasons=24).for_user(history)
    assert {r.item_id for f in found for r in f.reasons} == {f"i{n}" for n in range(1, 11)}
    assert not {"i20", "i21", "i22"} & {f.item_id for f in found}  # but had them, all the same


@pytest.mark.parametrize("bad", [[], [0, 1], [25]], ids=["empty", "padding", "beyond"])
def test_impossible_histories_are_refused(model, toy_catalog, bad) -> None:
    with pytest.raises(DataError, match="history"):
        Recommender(model, toy_catalog).rank([[1, 2], bad])


def test_batches_rank_as_one_does(model, toy_catalog, toy_users, monkeypatch) -> None:
    monkeypatch.setattr("lumos_core.recommend.recommender.SCORES_AT_A_TIME", 5 * 24)
    users = toy_users(13)
    recommender = Recommender(model, toy_catalog)
    whole = recommender.rank(list(users))
    batches = list(recommender.batches(users))
    assert [len(positions) for positions, _ in batches] == [5, 5, 3]
    assert np.array_equal(np.concatenate([r.items for _, r in batches]), whole.items)


def test_the_number_of_items_can_differ_for_one_user(model, toy_catalog) -> None:
    usual = Recommender(model, toy_catalog, top=4)
    for top in (1, 9, 24, 100):
        whole = Recommender(model, toy_catalog, top=top).for_user([3, 5])
        assert usual.for_user([3, 5], top=top) == whole
    assert len(usual.for_user([3, 5])) == 4


def test_parquet_holds_what_single_calls_give(tmp_path, model, toy_catalog, toy_users) -> None:
    users = toy_users(9)
    path, done = tmp_path / "new" / "r.parquet", []
    recommender = Recommender(model, toy_catalog, top=4)
    export_parquet(recommender, users, path, done.append)
    assert sum(done) == 9
    frame = pl.read_parquet(path)
    expected = [
        (name, r.rank, r.item_id, r.title, [reason.item_id for reason in r.reasons])
        for name, history in zip(users.user_ids, users, strict=True)
        for r in recommender.for_user(history)
    ]
    assert frame.drop("score").rows() == expected
    assert frame.schema["score"] == pl.Float32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600  # it tells what people are like


def test_a_failed_export_leaves_the_file_before(tmp_path, model, toy_catalog) -> None:
    path = tmp_path / "r.parquet"
    path.write_bytes(b"before")
    with pytest.raises(DataError, match="empty"):
        export_parquet(Recommender(model, toy_catalog), Sequences.from_lists([[1], []]), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("user", "length"), [("a", 1), ("b", 2), ("c", 12)])
def test_command_with_the_kept_model(node: Path, user: str, length: int) -> None:
    answer = json.loads(run("--data", node, "--user", user, "--top", 3, "--json"))
    assert answer["model"]["round"] == 4
    assert len(answer["history"]) == length
    found = answer["recommendations"]
    assert len(found) == 3
    assert not {f["item_id"] for f in found} & {h["item_id"] for h in answer["history"]}
    table = run("--data", node, "--user", user, "--top", 3)
    assert all(f["item_id"] in table for f in found)


def test_command_for_everyone(node: Path) -> None:
    run("--data", node, "--all", "--out", node / "r.parquet", "--top", 2, "--reasons", 0)
    frame = pl.read_parquet(node / "r.parquet")
    assert frame["user_id"].to_list() == ["a", "a", "b", "b", "c", "c"]
    assert frame["reasons"].list.len().to_list() == [0] * 6


WRONG = {
    "unknown user": (["--user", "nobody"], "no interaction of user 'nobody'"),
    "nobody": ([], "either --user ID or --all"),
    "both": (["--user", "a", "--all"], "either --user ID or --all"),
    "all without file": (["--all"], "--all writes the file --out"),
    "no model": (["--user", "a", "--model", "nowhere"], "nowhere: no such file"),
    "nothing kept": (["--user", "a", "--state", "nowhere"], "not kept a model yet"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_mistakes_are_told(node: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(LumosError, match=message):
        run("--data", node, *arguments)


def test_a_folder_without_nodes_interactions(tmp_path: Path, toy_catalog: Catalog) -> None:
    toy_catalog.write(tmp_path / "catalog.tsv")
    (tmp_path / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n")
    with pytest.raises(DataError, match="no data rows"):
        run("--data", tmp_path, "--user", "a")


def test_the_nearness_of_titles_counts_as_the_card_says(tmp_path, tiny) -> None:
    titles = ("red lamp", "blue lamp", "tea pot", "cake tin", "green lamp", "paper chain")
    catalog = Catalog(tuple("abcdef"), titles)
    config = tiny(method="lumos")
    params = get_params(new_model(config, len(catalog)))
    found = {}
    for weight in (0.0, 0.4, 10.0):
        card = ModelCard.of(config, len(catalog), catalog.fingerprint, 4, True, weight)
        path = tmp_path / f"{weight}.safetensors"
        save_model(path, params, card)
        loaded = load_model(path, catalog)
        assert loaded.title_weight == weight
        found[weight] = [r.item_id for r in Recommender(loaded, catalog).for_user([2])]
    assert set(found[10.0][:2]) == {"a", "e"}, "the other lamps"
    assert found[10.0] != found[0.0]


def test_recommendations_have_the_order_of_the_evaluation(tiny, toy_catalog, toy_users) -> None:
    users = toy_users(20)
    model = new_model(tiny(), len(toy_catalog))
    model.title_weight = 0.4
    ranked = Recommender(model, toy_catalog, top=24).rank(list(users))
    targets = np.array([row[row > 0][2] for row in ranked.items])  # the third of each user
    titles = TitleNearness.of(toy_catalog)
    ranks = ranks_by_weight(model, users, targets.astype(np.int64), titles, (0.4,))[0]
    assert ranks.tolist() == [3.0] * 20


def test_a_card_names_a_format_that_older_versions_refuse(tiny, toy_catalog) -> None:
    facts = (tiny(), len(toy_catalog), toy_catalog.fingerprint, 4, True)
    assert ModelCard.of(*facts).format == "lumos-sasrec-1"
    assert ModelCard.of(*facts, 0.2).format == "lumos-sasrec-2"
