"""Programs that stand in for Flower's: a SuperLink that only answers, a ``flwr`` and SuperNodes
that follow scripts, and others that only wait."""

import json
import stat
import sys
from pathlib import Path

from lumos_core.flower import commands

_SUPERLINK = """
import http.server, os, pathlib, ssl, sys
options = dict(zip(sys.argv[1:], sys.argv[2:]))

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", int(options["--port"])), Answer)
if "--ssl-certfile" in options:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options["--ssl-certfile"], options["--ssl-keyfile"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
(pathlib.Path(__file__).parent / "superlink.pid").write_text(str(os.getpid()))
server.serve_forever()
"""
_FLWR = """
import json, os, pathlib, signal, sys, time
place = pathlib.Path(__file__).parent
if sys.argv[1] == "supernode":
    print(json.dumps({"node-id": 7}))
    sys.exit()
print("flwr", *sys.argv[1:])
done = len(list(place.glob("submitted-*")))
(place / f"submitted-{done}").write_text(" ".join(sys.argv[1:]))
run_dir = pathlib.Path((place / "run-dir").read_text())
for step in (place / "script").read_text().splitlines()[done].split():
    what, _, whom = step.partition("-")
    if what in ("kill", "stop"):
        pid = place / (whom + ".pid")
        while not pid.exists():
            time.sleep(0.05)
        os.kill(int(pid.read_text()), signal.SIGKILL if what == "kill" else signal.SIGSTOP)
        pid.unlink()
    elif step == "wait":
        time.sleep(600)
    elif step.startswith("event="):
        with (run_dir / "history.jsonl").open("a") as file:
            file.write(json.dumps({"event": step.removeprefix("event=")}) + "\\n")
    else:
        summary = {"outcome": step, "reason": "", "rounds": 1, "best_round": 1, "test": {}}
        (run_dir / "summary.json").write_text(json.dumps(summary))
"""
_SUPERNODE = """
import json, os, pathlib, sys, time
place = pathlib.Path(__file__).parent
apps = [os.environ.get("LUMOS_INSTALLED_APP"), os.environ.get("LUMOS_APPROVED_APPS")]
start = {"argv": sys.argv[1:], "home": os.environ["FLWR_HOME"], "apps": apps}
starts = place / "supernode-starts"
done = len(starts.read_text().splitlines()) if starts.exists() else 0
with starts.open("a") as file:
    file.write(json.dumps(start) + "\\n")
script = json.loads((place / "supernode-script").read_text())
lines, code = script[min(done, len(script) - 1)]
print("\\n".join(lines), flush=True)
if code is None:
    time.sleep(600)
sys.exit(code)
"""
_WAITING = """
import os, pathlib, time
(pathlib.Path(__file__).parent / "superexec.pid").write_text(str(os.getpid()))
while True:
    pathlib.Path(os.environ["LUMOS_SIGN_OF_LIFE"]).write_text(str(time.monotonic()))
    time.sleep(0.05)
"""


class FlowerPrograms:
    """Write the programs, and have them found instead of Flower's.

    Args:
        monkeypatch: of the test.
        folder: for the programs.
        run_dir: where ``flwr run`` writes.
        script: what each ``flwr run`` does, one after another: words ``event=NAME`` (a line of the
            history), ``kill-superlink``, ``kill-superexec``, ``stop-…`` (SIGSTOP), ``wait`` (for
            ever), and ``completed`` or ``failed`` (a summary).
    """

    def __init__(self, monkeypatch, folder: Path, run_dir: Path, script: list[str]) -> None:
        folder.mkdir()
        run_dir.mkdir(exist_ok=True)
        (folder / "run-dir").write_text(str(run_dir))
        (folder / "script").write_text("\n".join(script))
        self.folder = folder
        for name, code in (
            ("flower-superlink", _SUPERLINK),
            ("flower-superexec", _WAITING),
            ("flower-supernode", _SUPERNODE),
            ("flwr", _FLWR),
        ):
            program = folder / name
            program.write_text(f"#!{sys.executable}\n{code}")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(commands, "executable", lambda name: str(folder / name))
        monkeypatch.setattr(commands.live_supernode, "command", lambda path: [path])
        superexec = [str(folder / "flower-superexec")]
        monkeypatch.setattr(commands.gated_superexec, "command", lambda: superexec)

    def script_supernodes(self, *script: tuple[list[str], int | None]) -> None:
        """What each SuperNode that is started prints, one after another, and its exit code; None
        keeps it running. Those after the last do what the last does."""
        (self.folder / "supernode-script").write_text(json.dumps(script))

    @property
    def supernode_starts(self) -> list[dict[str, object]]:
        """``argv``, ``home`` and approved ``apps`` of every SuperNode that was started."""
        path = self.folder / "supernode-starts"
        return [json.loads(line) for line in path.read_text().splitlines()]

    @property
    def submitted(self) -> list[str]:
        """Arguments of every ``flwr run``."""
        return [path.read_text() for path in sorted(self.folder.glob("submitted-*"))]
