"""How much a reply may hold follows from the instruction that it answers."""

import numpy as np
import pytest

from lumos_core.wire.messages import Instruction
from lumos_core.wire.reply_limits import (
    CHUNK_BYTES,
    MAX_ENTRIES,
    SPARE_ARRAYS,
    SPARE_BYTES,
    ReplyLimits,
    ReplyTooLargeError,
)

MODEL = {"items.weight": np.zeros((1000, 2000), np.float32), "bias": np.zeros(8, np.float32)}


def test_a_train_reply_may_hold_twice_the_model_and_a_little_more() -> None:
    limits = ReplyLimits.of(Instruction("a", "train", 1, MODEL))
    assert limits.arrays == 2 * 2 + SPARE_ARRAYS
    assert limits.size == 2 * (8_000_000 + 32) + SPARE_BYTES
    # an honest reply: message, records, an object and a chunk per array, further chunks
    assert limits.objects >= 4 + 2 * 4 + 8_000_000 // CHUNK_BYTES
    assert limits.objects < 100


@pytest.mark.parametrize("kind", ["describe", "prepare", "evaluate"])
def test_other_replies_are_small_whatever_the_model(kind: str) -> None:
    limits = ReplyLimits.of(Instruction("a", kind, 1, MODEL))  # type: ignore[arg-type]
    assert limits == ReplyLimits()
    assert limits.size == limits.small == SPARE_BYTES


def test_a_secure_round_has_room_for_a_share_for_every_peer() -> None:
    asked = Instruction("a", "secagg", 1, secure={"names": [f"node-{n}" for n in range(1000)]})
    limits = ReplyLimits.of(asked)
    assert limits.entries >= MAX_ENTRIES + 2 * 1000
    assert limits.small >= SPARE_BYTES + 1000 * (4096 + 64)


def test_the_limit_itself_is_allowed() -> None:
    ReplyLimits().check("arrays", 3, 3)
    with pytest.raises(ReplyTooLargeError, match=r"^4 arrays, at most 3$"):
        ReplyLimits().check("arrays", 4, 3)
