"""Random records through the way of a reply: refused with a reason, or a delta that is sound."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from lumos_core.config import RunConfig
from lumos_core.errors import ReplyError
from lumos_core.flower import records
from lumos_core.wire.messages import Instruction
from lumos_core.wire.reply_checks import TRAIN_METRICS, check_train
from server_app.grid_transport import to_reply

LIKE = {"items.weight": np.zeros((4, 3), np.float32), "bias": np.zeros(2, np.float32)}
names = st.one_of(st.sampled_from([*LIKE, *sorted(TRAIN_METRICS), "items.weight:scale"]), st.text())
dtypes = st.sampled_from(["f4", "f4", "f4", "f8", "f2", "i1", "i4", "?", "c8"])
shapes = st.sampled_from([(4, 3), (4, 3), (2,), (2,), (3, 4), (), (0,), (4,), (1, 4, 3)])
numbers = st.one_of(
    st.integers(-(2**62), 2**62), st.integers(0, 50), st.floats(), st.floats(0, 100),
    st.lists(st.floats(), max_size=3),
)  # fmt: skip


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    shape, dtype, seed = draw(shapes), draw(dtypes), draw(st.integers(0, 2**32 - 1))
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    raw = np.random.default_rng(seed).bytes(size)
    values = np.frombuffer(raw, dtype=dtype).reshape(shape)
    if draw(st.booleans()):  # small and sound
        values = np.full(shape, draw(st.integers(-3, 3))).astype(dtype)
    whole = Array(values)
    cut = draw(st.one_of(st.just(None), st.integers(0, 200)))
    data = whole.data if cut is None else whole.data[:cut] + draw(st.binary(max_size=20))
    stype = draw(st.sampled_from(["numpy.ndarray"] * 4 + ["pickle", ""]))
    return Array(dtype=str(values.dtype), shape=shape, stype=stype, data=data)


@st.composite
def contents(draw: st.DrawFn) -> RecordDict:
    """Sound parts are likelier than chance, so that every stage of the checks is reached."""
    sound: dict[str, Any] = {
        "delta": records.to_record({n: np.ones_like(a) for n, a in LIKE.items()}),
        "metrics": MetricRecord(dict.fromkeys(TRAIN_METRICS, 1)),
    }
    content = RecordDict(sound)
    if draw(st.booleans()):
        content["delta"] = ArrayRecord(draw(st.dictionaries(names, arrays(), max_size=4)))
    else:
        content["delta"][draw(st.sampled_from([*LIKE]))] = draw(arrays())
    if draw(st.booleans()):
        content["metrics"][draw(names)] = draw(numbers)
    if draw(st.integers(0, 7)) == 0:
        content[draw(st.text())] = draw(
            st.sampled_from([ConfigRecord({"code": "x y"}), MetricRecord({}), ArrayRecord({})])
        )
    return content


@given(content=contents())
def test_a_random_reply_is_refused_or_sound(content: RecordDict) -> None:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    message = Message(content, dst_node_id=1, message_type="train")
    reply = to_reply(Instruction("node-7", "train", 1), message, 0)
    assert reply.node == "node-7"
    if reply.error is not None:
        assert reply.arrays is None
        return
    config = RunConfig(dim=3, heads=1, max_delta_norm=10.0)
    try:
        delta = check_train(reply.arrays or {}, reply.metrics, LIKE, config, evaluated=False)
    except ReplyError:
        return
    assert {n: a.shape for n, a in delta.items()} == {n: a.shape for n, a in LIKE.items()}
    assert all(np.isfinite(a).all() and a.dtype == np.float32 for a in delta.values())
    assert np.sqrt(sum((a.astype(float) ** 2).sum() for a in delta.values())) <= 10.0
    assert reply.metrics.keys() == TRAIN_METRICS
