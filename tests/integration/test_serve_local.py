"""``lumos serve`` as a process: models change while it answers, and it ends when it is told to."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from deployment_support import LUMOS, start, wait_for
from serving_support import USERS, expected, keep, write_node, write_users

pytestmark = pytest.mark.integration

MODELS = (1, 2, 3, 4)


@contextmanager
def serving(
    folder: Path, *options: str
) -> "Iterator[tuple[subprocess.Popen[str], str, list[str]]]":
    """A service: its process, its address, and the lines that it prints."""
    command = [*LUMOS, "serve", "--data", str(folder), "--port", "0", *options]
    process, lines = start(command, folder), list[str]()

    def read() -> None:
        assert process.stdout is not None
        lines.extend(iter(process.stdout.readline, ""))

    def address() -> str:
        assert process.poll() is None, "".join(lines)
        told = (line.split()[1] for line in list(lines) if line.startswith("serving "))
        return next(told, "")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, wait_for(address, 120), lines
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(30)


class Load:
    """Clients that ask without a pause, and compare every answer with that of its model."""

    def __init__(self, url: str, lists: dict[int, list[str]]) -> None:
        self.url, self.lists, self.seen = url, lists, set[int]()
        self.answers, self.wrong = 0, list[str]()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(3)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30) as to:
            while not self._end.is_set():
                if number:
                    answer = to.get("/recommend", params={"user": "secret-user-7"})
                else:
                    answer = to.post("/recommend", json={"items": ["i9", "i8", "i7"]})
                if answer.status_code != 200:
                    self.wrong.append(f"{answer.status_code}: {answer.text}")
                    continue
                found = answer.json()
                model = found["model"]["round"]
                if [r["item_id"] for r in found["recommendations"]] != self.lists[model]:
                    self.wrong.append(f"not the answer of model {model}")
                self.seen.add(model)
                self.answers += 1


def test_models_change_under_load_and_nothing_is_wrong_or_logged(tmp_path: Path) -> None:
    folder = write_node(tmp_path / "node")
    items = USERS["secret-user-7"]
    lists = {seed: expected(keep(folder, seed), items) for seed in MODELS}
    path = keep(folder, MODELS[0])
    with serving(folder) as (process, url, lines):
        with Load(url, lists) as load:
            for seed in MODELS[1:]:
                keep(folder, seed)
                wait_for(lambda seed=seed: seed in load.seen, 30)
            path.write_bytes(b"not a model")  # the last one goes on
            refused = "lumos_serve_models_refused 1.0"
            wait_for(lambda: refused in httpx.get(f"{url}/metrics", trust_env=False).text, 30)
            before = load.answers
            wait_for(lambda: load.answers > before + 20, 30)
            write_users(folder, {"new-user": [1], **USERS})
            asked = f"{url}/recommend?user=new-user"
            wait_for(lambda: httpx.get(asked, trust_env=False).status_code == 200, 30)
        assert load.seen == set(MODELS)
        assert load.wrong == []
        for method, address, status in (
            ("GET", "/recommend?user=secret-user-8", 404),
            ("GET", "/recommend?user=u3&k=secret", 422),
            ("POST", "/recommend", 422),
            ("GET", "/secret", 404),
        ):
            answer = httpx.request(method, url + address, trust_env=False)
            assert answer.status_code == status
            assert answer.json()["error"]
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))):  # says nothing
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert process.wait(20) == 0
            assert time.monotonic() - began < 12
    output = "".join(lines)
    assert "without a token" in output
    assert output.count("in use: ") == len(MODELS)
    assert f"model refused, the one from before is used: {path}" in output
    assert not any(name in output for name in ("secret", "new-user", "toy number", "i9"))


def test_ctrl_c_ends_it_and_another_address_needs_a_token(tmp_path: Path) -> None:
    folder = write_node(tmp_path / "node")
    keep(folder, 1)
    with serving(folder, "--host", "0.0.0.0") as (process, url, lines):
        local = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{local}/health", trust_env=False).status_code == 200
        asked = f"{local}/recommend?user=u3"
        assert httpx.get(asked, trust_env=False).status_code == 401
        token = (folder / "state" / "serve-token").read_text().strip()
        told = {"Authorization": f"Bearer {token}"}
        assert httpx.get(asked, headers=told, trust_env=False).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    output = "".join(lines)
    assert f"whoever has the token in {folder / 'state' / 'serve-token'}" in output
    assert "interrupted" in output
    assert token not in output
    assert "Traceback" not in output


def test_what_cannot_work_is_said_before_it_listens(tmp_path: Path) -> None:
    folder = write_node(tmp_path / "node")
    command = [*LUMOS, "serve", "--data", str(folder), "--model", str(tmp_path / "missing")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ}, check=False
    )
    assert done.returncode == 1
    assert f"{tmp_path / 'missing'}: no such file or folder; expected a model" in done.stderr
    assert "serving" not in done.stdout
