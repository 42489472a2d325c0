"""A federation of a server and four nodes under faults of all kinds, one after another, and how
long each takes until all nodes take part in a round again.

    make chaos ARGS="--minutes 10 --seed 0"                          random faults
    make chaos ARGS="--times 10 --faults 'kill-*,link-node'"   each so many times in a row

Writes as JSON the seconds of every fault, the most memory by role, and what was left at the end,
and shows a table. At the end it checks that the run can be ended, continued and completed, that its
model is finite and equals that of the same rounds with the same nodes in one process, and that no
process is left, none was a zombie meanwhile, and none took a GiB more than before the first fault.
The exit code is 1 if a check fails, or if a fault took longer than ``--limit`` seconds from when
its cause was gone to the end of the next round of all nodes that began after it. Ctrl-C ends the
faults, and the checks follow.

It needs root, iproute2 and a C compiler.
"""

import argparse
import fnmatch
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from chaos_faults import FAULTS
from chaos_federation import HOSTS, SETTINGS, Federation, Processor, Rounds, compiled_shim
from chaos_replay import compare
from namespaces import Network, require_namespaces
from rich.console import Console
from rich.table import Table

from lumos_core.experiments.jobs import library_versions
from lumos_core.processes.children import ending_on_signals
from lumos_core.safe_files import write_atomically, write_json
from lumos_core.terminal.tables import markdown_table

OUT = Path("benchmarks/results/chaos.json")
FIRST_SECONDS = 240.0
CALM_ROUNDS = 5
HEADER = (
    "fault", "times", "median s", "most s", "last s", "noticed after s", "CPU s", "CPU s of others",
)  # fmt: skip
MORE_MIB = 1024.0  # that a process may take, beyond its role's peak without faults
MORE_ROUNDS = 2  # after the run was ended and started again
console = Console(highlight=False)


def main() -> int:
    options = _options()
    if options.list:
        console.print("\n".join(FAULTS))
        return 0
    require_namespaces()
    folder = Path(tempfile.mkdtemp(prefix="lumos-chaos-"))
    try:
        with (
            ending_on_signals(),
            compiled_shim(folder) as shim,
            Network("server", *HOSTS) as network,
        ):
            result = _run(network, folder / "federation", shim, options)
    finally:
        if options.keep:
            console.print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)
    table = markdown_table(HEADER, _rows(result))
    write_atomically(options.out.with_suffix(".md"), table.encode())
    _show(result)
    wrong = _wrong(result, options.limit)
    console.print("\n".join(f"[red]{line}[/]" for line in wrong) or "[green]all checks passed[/]")
    console.print(f"{options.out} has all of it")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="no fault is begun after them")
    parser.add_argument("--seed", type=int, default=0, help="of the faults, victims and moments")
    parser.add_argument("--faults", default="*", help="names or patterns, with commas")
    parser.add_argument("--times", type=int, help="each fault so many times in a row")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds until a good round")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    parser.add_argument("--list", action="store_true", help="list the faults")
    options = parser.parse_args()
    found = {pattern: fnmatch.filter(FAULTS, pattern) for pattern in options.faults.split(",")}
    if unknown := [pattern for pattern, names in found.items() if not names]:
        parser.error(f"no such fault: {', '.join(unknown)}; known are {', '.join(FAULTS)}")
    options.faults = [name for names in found.values() for name in names]
    return options


def _run(network: Network, place: Path, shim: Path, options: argparse.Namespace) -> dict[str, Any]:
    place.mkdir()
    rows: list[dict[str, Any]] = []
    begin = time.monotonic()
    processor = Processor()
    with Federation(network, place, shim) as federation:
        rounds = Rounds(federation.run_dir / "history.jsonl")
        if not rounds.wait(0.0, seconds=FIRST_SECONDS):
            raise SystemExit(f"no round of all nodes; see {place} (--keep)")
        console.print(f"first round of all nodes after {time.monotonic() - begin:.0f} s")
        calm = _calm(rounds, processor)
        calm_peak = dict(sorted(federation.seen.peak.items()))
        console.print(f"without faults: {calm}")
        draw = random.Random(options.seed)
        until = time.monotonic() + 60 * options.minutes
        with suppress(KeyboardInterrupt):  # what was measured is kept
            for name in _names(options, draw):
                if time.monotonic() > until:
                    break
                rows.append(_cause(name, federation, rounds, processor, draw))
                _tell(rows[-1])
                if rows[-1]["seconds"] is None:
                    break  # it stays stuck
        ended = _end(federation, rounds)
        seen = federation.seen
    processor.close()
    replay = compare(place / "run", place / "prepared", place / "replay")
    return {
        "config": {"minutes": options.minutes, "times": options.times, **SETTINGS},
        "seed": options.seed,
        "versions": library_versions(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "without faults": calm,
        "faults": rows,
        "end": ended,
        "replay": replay,
        "memory": {
            "MiB at most, by role, before the first fault": calm_peak,
            "MiB at most, by role": dict(sorted(seen.peak.items())),
            "MiB at most, together": seen.together,
            "MiB together, over time": seen.memory[:: max(1, len(seen.memory) // 50)],
        },
        "ClientApps of one node at a time, at most": seen.clients,
        "zombies": sorted(seen.zombies),
    }


def _names(options: argparse.Namespace, draw: random.Random) -> Iterator[str]:
    if options.times:
        for name in options.faults:
            yield from [name] * options.times
        return
    while True:  # all, in another order each time
        yield from draw.sample(options.faults, len(options.faults))


def _calm(rounds: Rounds, processor: Processor) -> dict[str, float]:
    """What a round takes before the first fault."""
    before, begin = processor.used(), time.monotonic()
    for _ in range(CALM_ROUNDS):
        rounds.wait(0.0)
    own, everybody = (b - a for a, b in zip(before, processor.used(), strict=True))
    return {
        "seconds a round": round((time.monotonic() - begin) / CALM_ROUNDS, 1),
        "CPU seconds a round": round(own / CALM_ROUNDS, 1),
        "CPU seconds of others a round": round((everybody - own) / CALM_ROUNDS, 1),
    }


def _cause(
    name: str,
    federation: Federation,
    rounds: Rounds,
    processor: Processor,
    draw: random.Random,
) -> dict[str, Any]:
    """Cause a fault and wait for the next good round."""
    time.sleep(draw.uniform(0.0, 2.0))  # at any moment of a round
    rounds.news()
    with FAULTS[name](federation, draw) as cause:
        pass
    gone = cause.gone or time.monotonic()
    before = processor.used()
    found = rounds.wait(gone)
    own, everybody = (b - a for a, b in zip(before, processor.used(), strict=True))
    return {
        "fault": name,
        "what": cause.what,
        "noticed": cause.noticed,
        "seconds": round(found[-1]["at"] - gone, 1) if found else None,
        "rounds": [f"{e['nodes_ok']} in {e['seconds']:.1f} s" for e in found],
        "failed": sorted({f["reason"] for e in found for f in e["failed"]}),
        "cpu_seconds": round(own, 1),
        "cpu_seconds_of_others": round(everybody - own, 1),
    }


def _tell(row: dict[str, Any]) -> None:
    console.print(
        f"{row['fault']}: {row['what']}: {row['seconds']} s "
        f"(noticed {row['noticed']}, rounds {row['rounds']}, "
        f"CPU {row['cpu_seconds']} s, others {row['cpu_seconds_of_others']} s)"
    )


def _end(federation: Federation, rounds: Rounds) -> dict[str, Any]:
    """End the server as an operator does, let it complete by the same command, and end all."""
    federation.running["server"].send_signal(2)
    interrupted = federation.running["server"].wait(90)
    done = _last_round(federation.run_dir)
    server = federation.start("server", rounds=done + MORE_ROUNDS)
    try:
        code: int | None = server.wait(FIRST_SECONDS)
    except Exception:
        code = None
    path = federation.run_dir / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    shutil.copytree(federation.run_dir, federation.place / "run")  # the disk goes with the server
    federation.stop()
    time.sleep(2.0)
    return {
        "exit code when interrupted": interrupted,
        "exit code when continued": code,
        "outcome": summary.get("outcome"),
        "reason": summary.get("reason"),
        "rounds": summary.get("rounds"),
        "processes left": federation.left(),
    }


def _last_round(run_dir: Path) -> int:
    lines = (run_dir / "history.jsonl").read_text().splitlines()
    return max(e["round"] for e in map(json.loads, lines) if e["event"] == "round")


def _wrong(result: dict[str, Any], limit: float) -> list[str]:
    """What is not as it has to be."""
    end, replay = result["end"], result["replay"]
    wrong = [
        f"{row['fault']}: {row['what']}: {row['seconds']} s until a good round, limit {limit:g} s"
        for row in result["faults"]
        if row["seconds"] is None or row["seconds"] > limit or row["noticed"] == -1
    ]
    if end["exit code when interrupted"] != 130:
        wrong.append(f"the interrupted server: code {end['exit code when interrupted']}, not 130")
    if not end["outcome"] or (end["outcome"] == "failed" and not end["reason"]):
        wrong.append(f"the run neither completed nor said why not: {end}")
    wrong += [f"left: {line}" for line in end["processes left"]]
    wrong += [f"the model is not {what}" for what in ("finite", "equal") if not replay[what]]
    wrong += [f"zombie: {line}" for line in result["zombies"]]
    calm = result["memory"]["MiB at most, by role, before the first fault"]
    wrong += [
        f"{role}: a process took {mib} MiB, without faults {calm.get(role, 0.0)} MiB"
        for role, mib in result["memory"]["MiB at most, by role"].items()
        if mib > calm.get(role, 0.0) + MORE_MIB
    ]
    if not replay["consecutive"]:
        wrong.append("a round is missing, or was counted twice")
    return wrong


def _rows(result: dict[str, Any]) -> list[list[str]]:
    """A line for each fault."""
    lines = []
    for name in dict.fromkeys(row["fault"] for row in result["faults"]):
        rows = [row for row in result["faults"] if row["fault"] == name]
        seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
        noticed = [row["noticed"] for row in rows if row["noticed"] is not None]
        lines.append([
            name, str(len(rows)),
            *(f"{f(seconds):.1f}" if seconds else "–" for f in (median, max)),
            "never" if rows[-1]["seconds"] is None else f"{rows[-1]['seconds']:.1f}",
            f"{max(noticed):.0f}" if noticed else "–",
            *(f"{median(row[key] for row in rows):.1f}" for key in
              ("cpu_seconds", "cpu_seconds_of_others")),
        ])  # fmt: skip
    return lines


def _show(result: dict[str, Any]) -> None:
    table = Table(*HEADER)
    for line in _rows(result):
        table.add_row(*line)
    console.print(table)
    for name in ("without faults", "end", "replay"):
        console.print(f"{name}: {result[name]}")
    console.print(result["memory"]["MiB at most, by role"])


if __name__ == "__main__":
    sys.exit(main())
