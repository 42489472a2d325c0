"""Inputs that people have: what becomes of the titles in them, exactly.

Each lies in ``tests/data/cases`` and is prepared by the command line, as somebody would.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.data import Catalog
from lumos_core.data.layout import PREPARE_NODE
from lumos_core.data.node_folder import read_node
from lumos_core.errors import DataError

CASES = Path(__file__).parents[2] / "data" / "cases"
Prepare = Callable[..., Result]


def titles(out: Path) -> dict[str, str]:
    """What was written, and that nodes have the same."""
    content = (out / "catalog.tsv").read_text(encoding="utf-8")
    assert (out / "node-0" / "catalog.tsv").read_text(encoding="utf-8") == content
    head, *rows, end = content.split("\n")
    assert (head, end) == ("item_id\ttitle", "")
    return dict(row.split("\t") for row in rows)  # type: ignore[misc]


def warnings(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output or str(result.exception)
    lines = result.stderr.splitlines()
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def refusal(result: Result) -> str:
    assert isinstance(result.exception, DataError), result.output
    return str(result.exception)


AMAZON_2023 = {f"P{n}": f"Title {n} & co" if n != 2 else "P2" for n in range(5)}

RIGHT: dict[str, tuple[list[str], dict[str, str], list[str]]] = {
    "joiners and soft hyphens stay": (
        ["zwj_titles"],
        {
            "a": "می\u200cخواهم",
            "b": "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
            "c": "co\xadoperate x\u200bz",
        },
        [],
    ),
    "the first usable title of an item": (
        ["a18_dup_meta"],
        {"B0": "Real title", "B1": "b1", "B2": "b2", "B3": "b3"},
        [],
    ),
    "script and markup are no titles, entities are resolved": (
        ["a18_html"],
        {"B0": "B0", "B1": "B1", "B2": '"Quoted" <b>', "B3": "B3"},
        ["3 of 4 items have no title in a18_html/meta_Office.json; their ids stand in"],
    ),
    "Amazon 2023 as CSV": (
        ["a23_5core_csv"],
        AMAZON_2023,
        ["1 of 5 items have no title in a23_5core_csv/meta_All_Beauty.jsonl; their ids stand in"],
    ),
    "Amazon 2023 as CSV, by its file": (
        ["a23_5core_csv/All_Beauty.csv"],
        AMAZON_2023,
        ["1 of 5 items have no title in a23_5core_csv/meta_All_Beauty.jsonl; their ids stand in"],
    ),
    "prices are no titles": (
        ["items_price_only"],
        {"a": "a", "b": "b", "c": "c"},
        [
            "items_price_only/items.csv: column 'price' holds numbers, no titles: item ids stand "
            "in for titles; name the column with --title-column"
        ],
    ),
    "prices as titles, if somebody wants them": (
        ["items_price_only", "--title-column", "price"],
        {"a": "1.99", "b": "2.5", "c": "3"},
        [],
    ),
    "titles in the log": (
        ["title_in_log/log.csv", "--title-column", "title"],
        {"a": "Apple", "b": "Bee", "c": "Cat"},
        [],
    ),
    "titles in the log, not asked for": (
        ["title_in_log/log.csv"],
        {"a": "a", "b": "b", "c": "c"},
        [
            "no list of items (items.tsv) beside log.csv: item ids stand in for titles; name a "
            "list of both with --items; for those "
            "in the log, --title-column title"
        ],
    ),
    "another key for titles": (
        ["a_titlecol_bad", "--title-column", "store"],
        {f"P{n}": f"Brand {n}" for n in range(4)},
        [],
    ),
    "the run's catalog for Amazon": (
        ["a_items_cat", "--items", "a_items_cat/catalog.tsv"],
        {f"P{n}": f"T{n}" for n in range(6)},
        [],
    ),
    "the run's catalog for RecBole": (
        ["rb_items_cat", "--items", "rb_items_cat/catalog.tsv"],
        {"a": "A", "b": "B", "c": "C"},
        [],
    ),
    "another id column in the items": (["steam_recbole"], {"10": "A", "20": "B", "30": "C"}, []),
    "every column by its name": (
        ["steam_recbole", "--item-column", "product_id:token", "--items-id-column", "id",
         "--title-column", "developer"],
        {"10": "x", "20": "x", "30": "x"},
        [],
    ),
    "metadata in Parquet": (
        ["a_meta_parquet/All.jsonl", "--items", "a_meta_parquet/m.parquet"],
        {"P0": "a", "P1": "b", "P2": "P2", "P3": "d"},
        ["1 of 4 items have no title in a_meta_parquet/m.parquet; their ids stand in"],
    ),
    "metadata in Parquet, found": (
        ["a_meta_parquet"],
        {"P0": "a", "P1": "b", "P2": "P2", "P3": "d"},
        ["1 of 4 items have no title in a_meta_parquet/m.parquet; their ids stand in"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_titles_are_as_they_should_be(prepare: Prepare, out: Path, name: str) -> None:
    arguments, expected, told = RIGHT[name]
    result = prepare(*arguments)
    assert warnings(result) == told
    assert list(titles(out).items()) == list(expected.items())


REFUSED: dict[str, tuple[list[str], str]] = {
    "a key that no record has": (
        ["a_titlecol_bad", "--title-column", "nope"],
        "meta_All.jsonl: no record has a title under 'nope', found 'parent_asin', 'title', 'store'",
    ),
    "a column that the log has not": (
        ["title_in_log/log.csv", "--title-column", "nope"],
        "log.csv: line 1: missing column: no title column among",
    ),
    "a column that the items have not": (
        ["zwj_titles", "--title-column", "nope"],
        "items.csv: line 1: missing column: no title column among 'item_id', 'title', expected "
        "'nope'",
    ),
    "an id column that the items have not": (
        ["steam_recbole", "--items-id-column", "nope"],
        "expected 'nope'; rename the column or name it with --items-id-column",
    ),
    "ids of another kind": (
        ["steam_recbole", "--items-id-column", "app_name"],
        "none of its items, such as '10', is among the 3, such as 'A',",
    ),
    "clicks of impressions elsewhere": (["zwj_titles", "--impression-clicks"], "only MIND's logs"),
    "unknown items without a list": (
        ["title_in_log/log.csv", "--unknown-items", "drop"],
        "--unknown-items drop: would have no effect, for there is no list of items",
    ),
    "more items than the run's catalog has": (
        ["rb_items_cat", "--items", "rb_items_cat/catalog.tsv", "--unknown-items", "keep"],
        "--unknown-items keep: would add items to the run's catalog",
    ),
    "columns of the run's catalog": (
        ["rb_items_cat", "--items", "rb_items_cat/catalog.tsv", "--title-column", "title"],
        "--title-column title: would have no effect, for rb_items_cat/catalog.tsv is a run's",
    ),
    "columns of a list that is not there": (
        ["title_in_log/log.csv", "--items-id-column", "id"],
        "--items-id-column id: would have no effect, for there is no list of items",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_have_no_effect_is_refused(prepare: Prepare, out: Path, name: str) -> None:
    arguments, message = REFUSED[name]
    assert message in refusal(prepare(*arguments))
    assert not out.exists()


def test_quoted_tsv_is_unquoted_or_refused_with_its_line(prepare: Prepare, out: Path) -> None:
    result = prepare("tsv_pandas_quoted")
    if result.exit_code:
        assert "tsv_pandas_quoted/items.tsv: line 3" in refusal(result)
    else:
        assert titles(out) == {"a": '12" plate, "blue"', "b": "two lines", "c": "plain"}


def test_the_fingerprint_does_not_depend_on_what_unicode_knows() -> None:
    """This file has characters that only later versions of Python can print."""
    catalog = Catalog.read(CASES / "catalog_new_emoji.tsv")
    assert catalog.titles == ("shaking \U0001fae8 face", "B", "\u202a\U0001fabf goose")
    rows = (CASES / "catalog_new_emoji.tsv").read_bytes().partition(b"\n")[2]
    digest = hashlib.sha256(b"lumos-catalog-2\n" + rows).hexdigest()
    assert (
        catalog.fingerprint
        == f"2:{digest}"
        == ("2:c099bdc1bce5058600a5c0a0177bf3def444ac65d63ad4235840677af4263164")
    )


# ---------------------------------------------------------------- the catalog of a run
MIND = {
    "behaviors.tsv": "1\tU1\t11/12/2019 2:00:00 PM\tN3 N1 N9 N3\tN1-0\n",
    "news.tsv": "N1\tn\ts\tA &amp; B\t\thttps://x\t[]\t[]\nN3\tn\ts\tC\t\thttps://x\t[]\t[]\n",
}
LOGS: dict[str, dict[str, str]] = {
    "table": {"interactions.csv": "user,item,time\nu,N3,1\nu,N1,2\nu,N9,3\nu,N3,4\n"},
    "mind": MIND,
    "recbole": {
        "x.inter": "user_id:token\titem_id:token\ttimestamp:float\n"
        + "".join(f"u\t{i}\t{t}\n" for t, i in enumerate(("N3", "N1", "N9", "N3")))
    },
    "amazon": {
        "All.jsonl": "".join(
            json.dumps({"user_id": "u", "parent_asin": i, "timestamp": t}) + "\n"
            for t, i in enumerate(("N3", "N1", "N9", "N3"))
        )
    },
}


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize("source", LOGS)
@pytest.mark.parametrize("name", ["catalog.tsv", "catalog.tsv.gz"])
def test_the_recipe_of_the_manual_works_for_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str
) -> None:
    import gzip

    catalog = Catalog(("N7", "N3", "N1"), ("Seven", "A &amp; B", "<b>One</b>"))
    catalog.write(tmp_path / "catalog.tsv")
    if name.endswith(".gz"):
        content = (tmp_path / "catalog.tsv").read_bytes()
        (tmp_path / name).write_bytes(gzip.compress(content))
    write(tmp_path / "log", LOGS[source])
    monkeypatch.chdir(tmp_path)
    command = PREPARE_NODE.replace("LOG", "log").replace("catalog.tsv", name).split()[1:]
    result = CliRunner().invoke(app, command)
    assert warnings(result) == [
        f"1 interactions with 1 items that {name} lacks, such as 'N9', are left out"
    ]
    own, users = read_node(tmp_path / "mine" / "node-0")
    assert own == catalog
    assert own.fingerprint == catalog.fingerprint
    assert [items.tolist() for items in users] == [[2, 3, 2]]
    shorter = [part for part in command if part != "--keep-all-items"]
    again = CliRunner().invoke(app, shorter)  # the catalog is taken whole all the same
    assert "already there, unchanged" in again.output


def test_columns_are_not_named_where_there_is_no_header(tmp_path: Path, out: Path) -> None:
    source = write(tmp_path / "log", MIND)
    for option in ("--user-column", "--item-column", "--time-column", "--title-column"):
        result = CliRunner().invoke(app, ["prepare", str(source), "--out", str(out), option, "x"])
        assert f"{option} x: would have no effect, for MIND's files have no header" in refusal(
            result
        )


def test_entities_are_resolved_in_every_format(tmp_path: Path) -> None:
    lists: dict[str, dict[str, str]] = {
        "table": {"items.csv": "item,title\nN1,A &amp; B\nN3,C\nN9,D\n"},
        "mind": {},
        "recbole": {"x.item": "item_id:token\tname:token_seq\nN1\tA &amp; B\nN3\tC\nN9\tD\n"},
        "amazon": {"meta_All.jsonl": '{"parent_asin": "N1", "title": "A &amp; B"}\n'},
    }
    for name, files in lists.items():
        source = write(tmp_path / name, {**LOGS[name], **files})
        arguments = ["prepare", str(source), "--nodes", "1", "--k-core", "0"]
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / f"{name}-out")])
        assert result.exit_code == 0, (name, result.exception)
        assert titles(tmp_path / f"{name}-out")["N1"] == "A & B", name


def test_reviews_have_titles_of_their_own(tmp_path: Path, out: Path) -> None:
    rows = [{"user_id": "u", "parent_asin": f"P{n}", "title": "Love it", "timestamp": n}
            for n in range(3)]  # fmt: skip
    source = write(tmp_path / "log", {"R.jsonl": "".join(json.dumps(r) + "\n" for r in rows)})
    arguments = ["prepare", str(source), "--out", str(out), "--title-column", "title"]
    assert "titles in it are those of reviews" in refusal(CliRunner().invoke(app, arguments))


# ---------------------------------------------------------------- domains
NEWS = "news articles read by a reader"


@pytest.mark.parametrize(
    ("source", "option", "domain"),
    [
        ("mind", None, "news"), ("amazon", None, "products"), ("table", None, None),
        ("recbole", None, None), ("recbole", "films", "films"), ("mind", "books", "books"),
    ],
)  # fmt: skip
def test_domains(
    tmp_path: Path, out: Path, source: str, option: str | None, domain: str | None
) -> None:
    files = {**LOGS[source], "items.csv": "item,title\nN1,A\nN3,B\nN9,C\n"}
    log = write(tmp_path / "log", files if source == "table" else LOGS[source])
    rest = ["--domain", option] if option else []
    arguments = ["prepare", str(log), "--out", str(out), "--nodes", "1", "--k-core", "0", *rest]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    for path in (out / "dataset.json", out / "node-0" / "node.json"):
        assert json.loads(path.read_text())["domain"] == domain


def test_the_sample_is_of_products(out: Path) -> None:
    result = CliRunner().invoke(app, ["prepare", "sample", "--out", str(out)])
    assert result.exit_code == 0, result.exception
    assert json.loads((out / "dataset.json").read_text())["domain"] == "products"


@pytest.fixture
def news(tmp_path: Path) -> Path:
    """Prepared data of readers."""
    clicks = MIND["behaviors.tsv"].replace("N9 ", "")
    source = write(tmp_path / "log", {**MIND, "behaviors.tsv": clicks + clicks.replace("U1", "U2")})
    arguments = ["prepare", str(source), "--out", str(tmp_path / "news"), "--k-core", "0"]
    result = CliRunner().invoke(app, [*arguments, "--nodes", "2"])
    assert result.exit_code == 0, result.exception
    return tmp_path / "news"


def test_the_noun_follows_from_the_domain(news: Path, tmp_path: Path) -> None:
    from lumos_core.cli.options import defaults_for
    from lumos_core.config import RunConfig
    from lumos_core.deployment.plan import plan_local, server_config

    assert defaults_for(news).llm_noun == defaults_for(news / "node-0").llm_noun == NEWS
    assert defaults_for(tmp_path).llm_noun == RunConfig().llm_noun

    def local(**flat: Any) -> str:
        plan = plan_local(flat, {}, news, None, tmp_path / "run", resume=False)
        return plan.config.llm_noun

    def server(**flat: Any) -> str:
        return server_config(flat, 2, news / "catalog.tsv", tmp_path / "run").llm_noun

    assert local() == server() == NEWS
    given = {"llm-noun": "poems"}
    assert local(**given) == server(**given) == "poems"


def test_a_run_keeps_the_noun_that_it_was_begun_with(news: Path, tmp_path: Path) -> None:
    from lumos_core.deployment.plan import plan_local, server_config
    from lumos_core.runs.folder import write_config

    config = server_config({"llm-noun": "poems"}, 2, news / "catalog.tsv", tmp_path / "run")
    write_config(tmp_path / "run", config, {})
    again = server_config({}, 2, news / "catalog.tsv", tmp_path / "run")
    assert again.llm_noun == "poems"
    resumed = plan_local({}, {}, news, None, tmp_path / "run", resume=True)
    assert resumed.config.llm_noun == "poems"


def test_commands_take_the_noun_from_the_data(
    news: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumos_core.cli import views
    from lumos_core.experiments.comparison import compare

    class SeenError(Exception):
        pass

    def see(config: Any, *_: Any, **__: Any) -> Any:
        raise SeenError(config.llm_noun)

    def see_plan(data: Any, names: Any, seeds: Any, base: Any, *_: Any) -> Any:
        raise SeenError(base.llm_noun)

    monkeypatch.setattr(views, "view_source", see)
    monkeypatch.setattr(compare, "plan_comparison", see_plan)
    commands = (
        ["views", "build", str(news)],
        ["views", "build", str(news / "node-1")],
        ["views", "show", str(news), "--user", "U1"],
        ["compare", str(news), "--out", str(tmp_path / "compared")],
    )
    for command in commands:
        for rest, noun in (([], NEWS), (["-c", "llm-noun=poems"], "poems")):
            result = CliRunner().invoke(app, [*command, *rest])
            assert isinstance(result.exception, SeenError), (command, result.exception)
            assert str(result.exception) == noun


def test_a_damaged_domain_is_named(news: Path) -> None:
    from lumos_core.data.prepared_folder import prepared_noun

    path = news / "dataset.json"
    path.write_text(path.read_text().replace('"news",\n  "seed"', '"shoes",\n  "seed"'))
    with pytest.raises(DataError, match=r"dataset\.json: key 'domain': found 'shoes', expected"):
        prepared_noun(news)


# ---------------------------------------------------------------- where data are written
def test_data_of_an_older_version_are_the_same_data(prepare: Prepare, out: Path) -> None:
    """Its facts are renewed; what the node keeps beside its tables stays."""
    assert prepare("rb_items_cat", "--items", "rb_items_cat/catalog.tsv").exit_code == 0
    path = out / "dataset.json"
    facts = json.loads(path.read_text())
    older = {k: v for k, v in facts.items() if k != "domain"} | {"catalog-fingerprint": "0" * 64}
    path.write_text(json.dumps(older))
    (out / "node-0" / "state").mkdir()
    again = prepare("rb_items_cat", "--items", "rb_items_cat/catalog.tsv", "--domain", "films")
    assert "already there, unchanged" in again.output
    assert json.loads(path.read_text()) == facts | {"domain": "films"}
    assert (out / "node-0" / "state").is_dir()


def test_an_output_folder_that_cannot_be_replaced_is_filled(
    prepare: Prepare, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder that is bound to another one, which os.path.ismount does not see."""
    import errno

    rename = Path.rename

    def busy(self: Path, target: Path) -> Path:
        if out in (self, Path(target)):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(self, target)

    out.mkdir()
    (out / "lost+found").mkdir()  # as on a new file system
    monkeypatch.setattr(Path, "rename", busy)
    assert prepare("zwj_titles").exit_code == 0
    assert len(titles(out)) == 3
    refused = prepare("title_in_log/log.csv")
    assert "holds other prepared data" in refusal(refused)
    assert titles(out)["c"] == "co\xadoperate x\u200bz"
    assert prepare("title_in_log/log.csv", "--force").exit_code == 0
    assert titles(out) == {"a": "a", "b": "b", "c": "c"}
    names = ["catalog.tsv", "dataset.json", "lost+found", "node-0"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failure_on_the_way_into_a_mount_point_leaves_the_old_data(
    prepare: Prepare, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare("zwj_titles").exit_code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(Path, "is_mount", lambda self: self == out)

    def full(source: Path, target: Path) -> None:
        if Path(source).name == "dataset.json":
            raise OSError(28, "No space left on device")
        Path(source).rename(target)

    monkeypatch.setattr(shutil, "move", full)
    assert "No space left" in refusal(prepare("title_in_log/log.csv", "--force"))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_output_folder_that_is_a_mount_point(prepare: Prepare, out: Path) -> None:
    out.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(out)]
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount")
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        assert prepare("zwj_titles").exit_code == 0
        assert len(titles(out)) == 3
        assert prepare("title_in_log/log.csv", "--force").exit_code == 0
        assert titles(out) == {"a": "a", "b": "b", "c": "c"}
    finally:
        subprocess.run(["umount", str(out)], check=True)
