"""``lumos status`` names nodes with other versions than the server's, until they are equal."""

import json
from pathlib import Path

from typer.testing import CliRunner

from lumos_core.cli.app import app

NOTE = "it has LUMOS 0.1.0 (here 0.2.0); install on the node: pip install lumos==0.2.0"
EVENT = {
    "event": "versions", "round": 0, "time": "2026-01-01T00:00:00.000+00:00", "node": "north",
    "lumos": "0.1.0", "protocol": 0, "flower": "1.39.0", "python": "3.11", "server": "0.2.0",
    "note": NOTE,
}  # fmt: skip


def shown(folder: Path, *events: dict[str, object], options: tuple[str, ...] = ()) -> str:
    (folder / "history.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    found = CliRunner().invoke(app, ["status", str(folder), *options], env={"COLUMNS": "250"})
    return found.output


def test_it_is_shown_while_it_differs(tmp_path: Path) -> None:
    text = " ".join(shown(tmp_path, EVENT).split())
    assert "other versions than the server's" in text
    assert "LUMOS 0.1.0, protocol 0, Flower 1.39.0, Python 3.11" in text
    assert "pip install lumos==0.2.0" in text
    upgraded = {**EVENT, "lumos": "0.2.0", "protocol": 1, "note": ""}
    assert "other versions" not in shown(tmp_path, EVENT, upgraded)


def test_programs_get_it_as_well(tmp_path: Path) -> None:
    [node] = json.loads(shown(tmp_path, EVENT, options=("--json",)))["nodes"]
    assert (node["name"], node["note"]) == ("north", NOTE)
    assert node["versions"].startswith("LUMOS 0.1.0, protocol 0")
