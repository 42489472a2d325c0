"""Independent work of torch in threads, each with one of torch's.

Operations on small tensors gain little from torch's own threads: most are too small to be shared
out. Whole pieces of work keep all cores busy, because torch's operations let other threads run.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")


def in_threads(
    work: Callable[..., T], arguments: Sequence[tuple[object, ...]], threads: int
) -> Iterator[T]:
    """What ``work`` returns for each of the arguments, in their order.

    A thread that is done goes on with the next piece, while an earlier one may still be at work.
    At most ``threads`` pieces are under way and as many results waiting, so memory is bounded.
    While this is iterated over, torch has one thread everywhere; afterwards, as many as before.
    That holds for a single piece, too: on an idle machine torch's own threads would spare it some
    time, but on a busy one they wait for each other at every small operation.

    >>> list(in_threads(pow, [(2, 3), (3, 2), (5, 1)], 2))
    [8, 9, 5]
    """
    if threads == 1:
        yield from (work(*given) for given in arguments)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # new threads take it over
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    left, begun = deque(arguments), deque[Future[T]]()
    try:
        while left or begun:
            at_work = [future for future in begun if not future.done()]
            if left and len(at_work) < threads and len(begun) < 2 * threads:
                begun.append(pool.submit(work, *left.popleft()))
            elif begun[0].done():
                yield begun.popleft().result()
            else:
                wait(at_work, return_when=FIRST_COMPLETED)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
