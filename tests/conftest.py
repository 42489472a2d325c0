"""Small things that many tests share: a catalog, histories with structure, configurations."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import threadpoolctl
import torch

from lumos_core.config import RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.data.sequences import Sequences

TOY_ITEMS = 24
WAITING = "integration"
"""Folder of the tests that start processes and mostly wait for them."""


@pytest.hookimpl(trylast=True)  # after those not asked for are out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files of tests that wait among those that compute.

    `make test` has more workers than the machine may have processors: while one waits for
    processes, the others have something to compute, and rarely do two start processes at a time.
    """
    files = {item.path: item.path.parent.name == WAITING for item in items}
    computing = [path for path, waits in files.items() if not waits]
    waiting = [path for path, waits in files.items() if waits]
    place = {path: n / len(computing) for n, path in enumerate(computing)}
    place |= {path: n / len(waiting) for n, path in enumerate(waiting)}
    items.sort(key=lambda item: place[item.path])  # stable: a file's tests stay in their order


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Bit-equality of repeated runs is promised for one thread; and machines of tests are small:
    with workers on all processors, the threads of NumPy's products wait for each other."""
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1, user_api="blas")


@pytest.fixture(autouse=True)
def _plain_loggers() -> Iterator[None]:
    """The apps configure the log of their process; a later test must find it as it was."""
    yield
    for name in ("lumos_core", "server_app", "client_app"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


@pytest.fixture
def toy_catalog() -> Catalog:
    """24 items."""
    names = range(1, TOY_ITEMS + 1)
    return Catalog(tuple(f"i{n}" for n in names), tuple(f"toy number {n}" for n in names))


@pytest.fixture
def toy_users() -> Callable[..., Sequences]:
    """``toy_users(12, seed=0)``: users who walk round the catalog in steps of one, with noise."""

    def make(users: int, seed: int = 0, shortest: int = 3, longest: int = 12) -> Sequences:
        rng = np.random.default_rng(seed)
        histories = []
        for _ in range(users):
            length = int(rng.integers(shortest, longest + 1))
            walk = (int(rng.integers(TOY_ITEMS)) + np.arange(length)) % TOY_ITEMS + 1
            noise = rng.integers(1, TOY_ITEMS + 1, size=length)
            histories.append(np.where(rng.random(length) < 0.1, noise, walk).tolist())
        return Sequences.from_lists(histories, [f"user-{seed}-{u}" for u in range(users)])

    return make


@pytest.fixture
def tiny() -> Callable[..., RunConfig]:
    """``tiny(rounds=2)``: a small, quick configuration, with fields changed as given."""

    def make(**changes: Any) -> RunConfig:
        small: dict[str, Any] = {
            "method": "fedavg",
            "dim": 8,
            "layers": 1,
            "heads": 2,
            "max_len": 10,
            "batch_size": 8,
            "local_epochs": 1,
            "learning_rate": 0.01,
            "semantic_start": "none",
            "rounds": 3,
            "server_optimizer": "sgd",
            "patience": 0,
            "start_timeout": 1.0,
            "round_timeout": 1.0,
        }
        return RunConfig().replace(**{**small, **changes})

    return make


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Files and folders that others may read, unless somebody takes care."""
    before = os.umask(0o022)
    yield
    os.umask(before)
