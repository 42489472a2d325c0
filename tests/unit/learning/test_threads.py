"""Independent work in threads."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from lumos_core.learning.threads import in_threads

WAIT = 30.0


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


def test_a_slow_piece_keeps_no_other_thread_waiting() -> None:
    last_began = threading.Event()

    def work(piece: int) -> int:
        if piece == 0:
            assert last_began.wait(WAIT), "the second thread stood still meanwhile"
        if piece == 2:
            last_began.set()
        return piece

    assert list(in_threads(work, [(0,), (1,), (2,), (3,)], 2)) == [0, 1, 2, 3]


def test_no_more_pieces_are_under_way_or_waiting_than_said() -> None:
    lock, begun, taken, most = threading.Lock(), 0, 0, 0

    def work(piece: int) -> int:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - taken)
        return piece

    for piece in in_threads(work, [(n,) for n in range(40)], 3):
        if piece == 0:
            time.sleep(0.2)  # others could go on
        with lock:
            assert piece == taken
            taken += 1
    assert most <= 6


@pytest.mark.parametrize("pieces", [1, 3])
def test_every_piece_has_one_of_torchs_threads(pieces: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = list(in_threads(torch.get_num_threads, [()] * pieces, 2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == [1] * pieces


def test_an_error_ends_it() -> None:
    def work(piece: int) -> int:
        if piece == 1:
            raise ValueError("piece 1")
        return piece

    found = in_threads(work, [(n,) for n in range(20)], 2)
    assert next(found) == 0
    with pytest.raises(ValueError, match="piece 1"):
        next(found)
