"""Makes the pictures of pages in docs/pictures: the report of a run of the bundled sample, its live
page, and the page of a node's owner, in the Chromium of the system.

    python scripts/page_screenshots.py [--out docs/pictures]

Called by ``make screenshots``. The run is a real one in this process, without views
(a minute). The live page shows the same run's folder as it was after six
rounds, with one node that does not answer and one that was refused: both are made up here. The node
is one of a simulation with Flower's engine, so that it has a ledger.
"""

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import chromium  # noqa: E402
from serving_support import node_page  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from lumos_core.cli.app import app  # noqa: E402
from lumos_core.cli.web import watching  # noqa: E402
from lumos_core.runs.attendance import ATTENDANCE, Attendance  # noqa: E402
from lumos_core.runs.history import HISTORY, read_history  # noqa: E402
from lumos_core.runs.lock import only_server  # noqa: E402
from lumos_core.runs.summary import SUMMARY  # noqa: E402

ROUNDS, SHOWN = 10, 6
ARGUMENTS = [
    "simulate", "--engine", "in-process", "--method", "fedavg-plus", "--rounds", str(ROUNDS),
]  # fmt: skip
REFUSED = (
    "its catalog is '3f2a91c0'…, the run's is '8b4bec71'…; give it the run's catalog.tsv and "
    "configuration"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--only", choices=("runs", "node"), help="not all of them")
    parser.add_argument("--run-dir", type=Path, help="a run that is there, instead of a new one")
    options = parser.parse_args()
    if reason := chromium.missing():
        sys.exit(reason)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium.chromium() as browser:
        if options.only != "node":
            of_runs(browser, options.run_dir, Path(folder), options.out)
        if options.only != "runs":
            of_a_node(browser, Path(folder), options.out)


def of_runs(browser: object, given: Path | None, folder: Path, out: Path) -> None:
    """The report of a run, and its live page."""
    run_dir = given or folder / "run"
    if given is None:
        lumos(*ARGUMENTS, "--run-dir", str(run_dir))
    report = (run_dir / "report.html").resolve().as_uri()
    picture(browser, report, out / "report.png", 1280, 1560, "light")
    picture(browser, report, out / "report-phone.png", 360, 740, "dark")
    live = folder / "live" / "run"
    cut(run_dir, live)
    with only_server(live), watching(live, "127.0.0.1", 0) as address:
        picture(browser, address, out / "live.png", 1280, 1000, "light")


def of_a_node(browser: object, folder: Path, out: Path) -> None:
    """The page of a node's owner."""
    data = folder / "shops"
    lumos("prepare", "sample", "--out", str(data), "--nodes", "3")
    of_data = ["--data", str(data), "--run-dir", str(folder / "simulation"), "--no-baselines"]
    lumos("simulate", *of_data, "--method", "fedavg-plus", "--rounds", "4")
    with node_page(data / "node-0") as address:
        picture(browser, address, out / "node.png", 1280, 1700, "light")
        picture(browser, address, out / "node-phone.png", 360, 740, "dark")


def lumos(*arguments: str) -> None:
    result = CliRunner().invoke(app, arguments)
    if result.exit_code:
        sys.exit(result.output)


def cut(run_dir: Path, live: Path) -> None:
    """The folder of the run as it was after some rounds, with a late and a refused node."""
    live.mkdir(parents=True)
    (live / "config.json").write_bytes((run_dir / "config.json").read_bytes())
    events = [e for e in read_history(run_dir / HISTORY) if e["round"] <= SHOWN]
    (live / HISTORY).write_text("".join(json.dumps(event) + "\n" for event in events))
    assert not (live / SUMMARY).exists()
    now = datetime.now(UTC)
    Attendance(
        round=SHOWN + 1, asked=(now - timedelta(seconds=40)).isoformat(),
        closes=(now + timedelta(seconds=20)).isoformat(), waiting=["node-2"],
        answered={"node-0": 4.1, "node-1": 4.6}, refused={"node-3": REFUSED},
    ).write(live / ATTENDANCE)  # fmt: skip


def picture(browser: object, url: str, path: Path, width: int, height: int, scheme: str) -> None:
    """The upper part of a page."""
    with chromium.opened(browser, url, width, scheme) as page:
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(1500)
        page.screenshot(path=path)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
