"""Files that are nearly JSON lines: the command in the message makes them what is expected."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lumos_core.data.interactions import read_interactions, read_items
from lumos_core.data.reading.columns import Columns
from lumos_core.errors import DataError

ROWS = [{"user": f"u{n}", "item": f"it's {n}", "time": n, "extra": [1]} for n in range(3)]
KINDS = {
    "array": json.dumps(ROWS),
    "array over lines": json.dumps(ROWS, indent=1),
    "literals": "".join(f"{row!r}\n" for row in ROWS),
    "literals of Python 2": "".join("{u'user': u'u" + f"{n}', 'item': \"it's {n}\", 'time': {n}}}\n"
                                    for n in range(3)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["my log.json", "log.jsonl", "log.json.gz"])
def test_the_command_in_the_message_converts_it(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    text = KINDS[kind].encode()
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    what = "a JSON array" if "array" in kind else "in Python's notation"
    with pytest.raises(DataError, match=rf"{name}: line 1: is {what}") as caught:
        read_interactions(path)
    command = str(caught.value).partition("convert it with: ")[2]
    command = command.replace("python -c", f"{sys.executable} -c")
    subprocess.run(["bash", "-c", command], check=True)
    (fresh,) = tmp_path.glob("*.lines.jsonl")
    expected = [(row["user"], row["item"], row["time"]) for row in ROWS]
    assert read_interactions(fresh).frame.rows() == expected


def test_an_object_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(ROWS[0], indent=1))
    with pytest.raises(DataError, match=r"line 1: .*over several lines.*jq -c \. "):
        read_interactions(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"user": {"$oid": "a" * 60}, "item": "b", "time": 1},
            "found '{.{39}…': user is a JSON obj",
        ),
        ({"user": "a", "item": ["b"], "time": 1}, r"found '\[\"b\"\]': item is a JSON list"),
        ({"user": "a", "item": [], "time": 1}, "item is a JSON list"),
        ({"user": "a", "item": "b", "time": {"$date": 1}}, "time is a JSON object"),
    ],
)
def test_objects_and_lists_are_no_ids(
    tmp_path: Path, record: dict[str, object], message: str
) -> None:
    path = tmp_path / "log.jsonl"
    good = {"user": "[a]", "item": "{b}", "time": 1}
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(record)}\n")
    with pytest.raises(DataError, match=f"line 3: .*{message}"):
        read_interactions(path)
    path.write_text(json.dumps(good) + "\n")
    assert read_interactions(path).frame.rows() == [("[a]", "{b}", 1)]


def test_long_values_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    long = "x" * 500
    path.write_text(json.dumps({"user": "a", "item": "b", "time": long}) + "\n")
    with pytest.raises(DataError) as caught:
        read_interactions(path)
    assert f"'{long[:40]}…'" in str(caught.value)
    assert long[:41] not in str(caught.value)
    path.write_text(json.dumps(dict.fromkeys([long, *"abcdefghijklmnopqrstuvwxyz"], 1)) + "\n")
    with pytest.raises(DataError) as caught:
        read_interactions(path, Columns(user="who"))
    assert len(str(caught.value)) < 500
    path.write_text(f'{{"item_id": "{long}"}}\n' * 2)
    with pytest.raises(DataError) as caught:
        read_items(path)
    assert long[:41] not in str(caught.value)
