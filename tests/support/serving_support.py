"""A node to serve recommendations of: a data folder, kept models, and the same ranking without a
service."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lumos_core.config import RunConfig
from lumos_core.data import Catalog, Sequences
from lumos_core.learning.model import get_params, new_model
from lumos_core.recommend.model_files import KEPT_LATEST, ModelCard, load_model, save_model
from lumos_core.recommend.recommender import Recommender

ITEMS = 24
CATALOG = Catalog(
    tuple(f"i{n}" for n in range(1, ITEMS + 1)),
    tuple(f"toy number {n}" for n in range(1, ITEMS + 1)),
)
USERS = {"Ann&Søn": [1, 2, 3, 4], "secret-user-7": [9, 8, 7], "u3": [5]}
CONFIG = RunConfig(method="fedavg", dim=8, layers=1, heads=2, max_len=10, semantic_start="none")


def write_node(folder: Path, users: dict[str, list[int]] | None = None) -> Path:
    """A node's data folder."""
    folder.mkdir(parents=True, exist_ok=True)
    CATALOG.write(folder / "catalog.tsv")
    write_users(folder, USERS if users is None else users)
    return folder


def write_users(folder: Path, users: dict[str, list[int]]) -> None:
    """The node's histories, in place of those from before."""
    rows = [
        f"{user}\t{CATALOG.item_id(item)}\t{1_700_000_000 + when}\n"
        for user, items in users.items()
        for when, item in enumerate(items)
    ]
    new = folder / "new.tmp"
    new.write_text("user_id\titem_id\ttimestamp\n" + "".join(rows), encoding="utf-8")
    os.replace(new, folder / "interactions.tsv")


def keep(
    folder: Path, seed: int, name: str = KEPT_LATEST, catalog: Catalog = CATALOG, **changes: Any
) -> Path:
    """Keep a model in the node's state folder, as a node does; its round is the seed."""
    config = CONFIG.replace(seed=seed, **changes)
    weight = 0.5 if seed % 2 else 0.0
    final = "final" in name
    card = ModelCard.of(config, len(catalog), catalog.fingerprint, seed, final, weight)
    path = folder / "state" / name
    save_model(path, get_params(new_model(config, len(catalog))), card)
    return path


def expected(path: Path, items: list[int], top: int = 10) -> list[str]:
    """The items that a model recommends, best first."""
    recommender = Recommender(load_model(path, CATALOG), CATALOG, top=top)
    return [found.item_id for found in recommender.for_user(items)]


def sequences() -> Sequences:
    """The users of :data:`USERS`."""
    return Sequences.from_lists(list(USERS.values()), list(USERS))


@contextmanager
def node_page(data: Path, *options: str) -> Iterator[str]:
    """``lumos node page`` as a process; yields the address that it prints."""
    argv = [sys.executable, "-m", "lumos_core", "node", "page", "--data", str(data), "--port", "0"]
    process = subprocess.Popen([*argv, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found.group(0)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
