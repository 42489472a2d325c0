"""Makes the pictures of pages in docs/pictures: the report of a run of the bundled sample, and its
live page, in the Chromium of the system.

    python scripts/page_screenshots.py [--out docs/pictures]

Called by ``make screenshots``. The run is a real one in this process, without views
(a minute). The live page shows the same run's folder as it was after six
rounds, with one node that does not answer and one that was refused: both are made up here.
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
    parser.add_argument("--run-dir", type=Path, help="a run that is there, instead of a new one")
    options = parser.parse_args()
    if reason := chromium.missing():
        sys.exit(reason)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium.chromium() as browser:
        run_dir = options.run_dir or simulated(Path(folder) / "run")
        report = (run_dir / "report.html").resolve().as_uri()
        picture(browser, report, options.out / "report.png", 1280, 1560, "light")
        picture(browser, report, options.out / "report-phone.png", 360, 740, "dark")
        live = Path(folder) / "live" / "run"
        cut(run_dir, live)
        with only_server(live), watching(live, "127.0.0.1", 0) as address:
            picture(browser, address, options.out / "live.png", 1280, 1000, "light")


def simulated(run_dir: Path) -> Path:
    """A run of the bundled sample."""
    result = CliRunner().invoke(app, [*ARGUMENTS, "--run-dir", str(run_dir)])
    if result.exit_code:
        sys.exit(result.output)
    return run_dir


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
