"""Flower records ⇄ plain values: the one place that defines what messages hold, and its names.

================  ==============================================================================
to a node         ArrayRecord ``model`` (train and evaluate only), ConfigRecord ``instruction``
                  with ``query.artefact`` also ConfigRecord ``offered``: size and kind of the
                  server's catalog artefact; and ArrayRecord ``piece``: a part of its bytes
train reply       ArrayRecord ``delta`` + MetricRecord ``metrics``
evaluate reply    MetricRecord ``metrics``
artefact reply    MetricRecord ``metrics``: whether the node wants a piece, and which
prepare reply     MetricRecord ``metrics``: two flags, and the rough progress of the views
describe reply    ConfigRecord ``node``: counts, fingerprints, versions
secure rounds     ConfigRecord ``secagg`` to and from the node: a packet of
                  :mod:`lumos_core.privacy.secure_aggregation.packets`; the train reply is then
                  ArrayRecord ``upload`` alone, one masked array
any failure       ConfigRecord ``error``: ``code``, and in answer to describe also ``name``
                  and versions
================  ==============================================================================

Both apps use these functions, so server and nodes cannot disagree. Nothing received is trusted:
every ``decode_*`` raises :class:`~lumos_core.errors.ReplyError` for anything but the above.
"""

import math
import re
from collections.abc import Mapping
from io import BytesIO
from typing import NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, MetricRecord, RecordDict

from lumos_core.errors import ReplyError
from lumos_core.privacy.secure_aggregation.packets import MASKED
from lumos_core.views.titles.artefact_pieces import MAX_BYTES, Offered, Piece
from lumos_core.wire.messages import Metrics, Packet, Split
from lumos_core.wire.reply_limits import MAX_RECORDS, ReplyLimits
from lumos_core.wire.versions import PROTOCOL

MODEL, INSTRUCTION = "model", "instruction"
DELTA, METRICS, NODE, ERROR = "delta", "metrics", "node", "error"
SECAGG, UPLOAD = "secagg", "upload"
OFFERED, PIECE, PIECE_NUMBER = "offered", "piece", "number"
DESCRIBE, TRAIN, EVALUATE = "query.describe", "train", "evaluate"  # Flower message types
ARTEFACT, PREPARE, SECURE = "query.artefact", "query.prepare", "query.secagg"
MESSAGE_TYPES = {
    "describe": DESCRIBE,
    "artefact": ARTEFACT,
    "prepare": PREPARE,
    "train": TRAIN,
    "evaluate": EVALUATE,
    "secagg": SECURE,
}
"""By :attr:`lumos_core.wire.messages.Instruction.kind`."""

VERSION_KEYS = ("version", "protocol", "flower", "python")
"""Keys of versions, in a describe reply and in a failed one."""
Arrays = Mapping[str, np.ndarray]
_MAX_TEXT = 1000  # characters of what an instruction says about an artefact
RUN_NAME = "[0-9a-f]{0,64}"
_MAX_NAME = 200  # characters in the name of an array, a metric or a node
_CODE = re.compile("[a-z][a-z0-9-]{0,39}")


class Order(NamedTuple):
    """An instruction to a node.

    Attributes:
        params: the global model (float32 arrays by name); None if the instruction needs none.
        round: 1, 2, …; 0 before the first.
        evaluate: the split on which to evaluate ``params``, if any.
        catalog: fingerprint of the server's catalog; empty if the server did not send it.
        secure: a packet of secure aggregation, if the instruction is a step of it; unchecked.
        seconds: in a ``prepare``, the longest time to work on views.
        title_weight: of the titles' nearness, for rankings by ``params``.
        protocol: what the server speaks with this node; 0 if it is LUMOS 0.1.
        offered: the server's catalog artefact, if the instruction is about it.
        piece: a piece of it.
        run: names the run, over restarts of the server; empty if the server did not send it.
    """

    params: dict[str, np.ndarray] | None
    round: int
    evaluate: Split | None
    catalog: str
    secure: dict[str, object] | None = None
    seconds: float = 0.0
    title_weight: float = 0.0
    protocol: int = PROTOCOL
    offered: Offered | None = None
    piece: Piece | None = None
    run: str = ""


# ---------------------------------------------------------------- server → node
def encode_order(order: Order) -> RecordDict:
    """The content of an instruction message."""
    values: dict[str, ConfigRecordValues] = {
        "round": order.round,
        "evaluate": order.evaluate or "",
        "catalog": order.catalog,
        "seconds": order.seconds,
        "title-weight": order.title_weight,
        "protocol": order.protocol,
        "run": order.run,
    }
    content = RecordDict({INSTRUCTION: ConfigRecord(values)})
    if order.params is not None:
        content[MODEL] = to_record(order.params)
    if order.secure is not None:
        content[SECAGG] = ConfigRecord(order.secure)  # type: ignore[arg-type]
    if order.offered is not None:
        number = -1 if order.piece is None else order.piece.number
        content[OFFERED] = ConfigRecord({**order.offered._asdict(), PIECE_NUMBER: number})
    if order.piece is not None:
        content[PIECE] = to_record({PIECE: np.frombuffer(order.piece.content, dtype=np.uint8)})
    return content


def decode_order(content: RecordDict) -> Order:
    """The order that :func:`encode_order` was given.

    Raises:
        ReplyError: records are missing or malformed.
    """
    values = content.config_records.get(INSTRUCTION)
    if values is None:
        raise ReplyError(f"instruction lacks the record '{INSTRUCTION}'")
    round_, evaluate, catalog = (values.get(k) for k in ("round", "evaluate", "catalog"))
    if not isinstance(round_, int) or not isinstance(catalog, str):
        raise ReplyError("instruction: 'round' must be an int and 'catalog' a str")
    if evaluate not in ("", "validation", "test"):
        raise ReplyError(f"instruction: 'evaluate' is {evaluate!r}, expected validation or test")
    seconds, weight = (_not_negative(values, name) for name in ("seconds", "title-weight"))
    model = content.array_records.get(MODEL)
    params = None if model is None else from_record(model)
    secure = content.config_records.get(SECAGG)
    packet = None if secure is None else dict(secure)
    split = evaluate or None
    protocol = values.get("protocol", 0)
    if not isinstance(protocol, int) or protocol < 0:
        raise ReplyError(f"instruction: 'protocol' is {protocol!r}, expected a whole number")
    order = Order(params, round_, split, catalog, packet, seconds, weight)  # type: ignore[arg-type]
    return order._replace(
        protocol=protocol, offered=_offered(content), piece=_piece(content), run=_run_name(values)
    )


def _offered(content: RecordDict) -> Offered | None:
    """The catalog artefact that an instruction is about, if it is about one."""
    record = content.config_records.get(OFFERED)
    if record is None:
        return None
    size, *texts = (record.get(name) for name in Offered._fields)
    if type(size) is not int or not 0 < size <= MAX_BYTES:
        raise ReplyError(f"instruction: 'size' is {size!r}, expected 1 … {MAX_BYTES}")
    if not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts):
        raise ReplyError("instruction: 'model', 'recipe' and 'noun' must be short texts")
    return Offered(size, *map(str, texts))


def _piece(content: RecordDict) -> Piece | None:
    """The piece of an artefact that an instruction brings, if it brings one."""
    record, offered = content.array_records.get(PIECE), content.config_records.get(OFFERED)
    if record is None or offered is None:
        return None
    number, arrays = offered.get(PIECE_NUMBER), from_record(record)
    array = arrays.get(PIECE)
    if type(number) is not int or number < 0:
        raise ReplyError(f"instruction: 'number' is {number!r}, expected one from 0 on")
    if len(arrays) != 1 or array is None or array.dtype != np.uint8 or array.ndim != 1:
        raise ReplyError("instruction: 'piece' must be one row of bytes")
    return Piece(number, array.tobytes())


def _run_name(values: ConfigRecord) -> str:
    """The name of the run; empty where a server of an older version did not send it."""
    run = values.get("run", "")
    if not isinstance(run, str) or not re.fullmatch(RUN_NAME, run):
        raise ReplyError(f"instruction: 'run' is {str(run)[:40]!r}, expected hexadecimal digits")
    return run


def _not_negative(values: ConfigRecord, name: str) -> float:
    """A number of an instruction; 0 where a server of an older version did not send it."""
    value = values.get(name, 0.0)
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ReplyError(f"instruction: '{name}' is {value!r}, expected a number from 0 on")
    return float(value)


# ---------------------------------------------------------------- node → server
def encode_train(delta: Arrays, metrics: Metrics) -> RecordDict:
    """The content of a train reply: one delta, one record of counts, nothing else."""
    return RecordDict({DELTA: to_record(delta), METRICS: _metric_record(metrics)})


def encode_metrics(metrics: Metrics) -> RecordDict:
    """The content of an evaluate reply (sums and counts) or a prepare reply (flags)."""
    return RecordDict({METRICS: _metric_record(metrics)})


def encode_upload(vector: np.ndarray) -> RecordDict:
    """The content of a train reply under secure aggregation: one masked array, nothing else."""
    return RecordDict({UPLOAD: to_record({MASKED: vector})})


def encode_secure(packet: Packet) -> RecordDict:
    """The content of a reply to another step of secure aggregation."""
    return RecordDict({SECAGG: ConfigRecord(packet)})  # type: ignore[arg-type]


def encode_describe(facts: Mapping[str, str]) -> RecordDict:
    """The content of a describe reply."""
    values: dict[str, ConfigRecordValues] = {**facts}
    return RecordDict({NODE: ConfigRecord(values)})


def encode_error(
    code: str, name: str = "", versions: Mapping[str, str] | None = None
) -> RecordDict:
    """The content of a failed reply: a code of :mod:`client_app.error_codes`, never the text of an
    exception.

    Args:
        code: what failed.
        name: the node's name, when the server asked for it.
        versions: of the node's programs, when the server asked for them.
    """
    values: dict[str, ConfigRecordValues] = {"code": code, **(versions or {})}
    if name:
        values["name"] = name
    return RecordDict({ERROR: ConfigRecord(values)})


def decode_train(content: RecordDict) -> tuple[dict[str, np.ndarray], Metrics]:
    """The delta as it arrived (codec and shapes are checked by the core) and the counts.

    Raises:
        ReplyError: records are missing, superfluous or malformed.
    """
    _expect(content, {DELTA: ArrayRecord, METRICS: MetricRecord})
    return from_record(content.array_records[DELTA]), _metrics(content.metric_records[METRICS])


def decode_metrics(content: RecordDict) -> Metrics:
    """The metrics of an evaluate, prepare or artefact reply. Raises as :func:`decode_train`."""
    _expect(content, {METRICS: MetricRecord})
    return _metrics(content.metric_records[METRICS])


def decode_upload(content: RecordDict) -> dict[str, np.ndarray]:
    """The masked array as it arrived. Raises ReplyError as :func:`decode_train`."""
    _expect(content, {UPLOAD: ArrayRecord})
    return from_record(content.array_records[UPLOAD])


def decode_secure(content: RecordDict) -> Packet:
    """A packet as it arrived, unchecked. Raises ReplyError as :func:`decode_train`."""
    _expect(content, {SECAGG: ConfigRecord})
    return dict(content.config_records[SECAGG])  # type: ignore[arg-type]


def decode_describe(content: RecordDict) -> dict[str, str]:
    """The node's facts. Raises ReplyError as :func:`decode_train`."""
    _expect(content, {NODE: ConfigRecord})
    facts: dict[str, str] = {}
    for name, value in content.config_records[NODE].items():
        if not isinstance(value, str) or len(name) > _MAX_NAME or len(value) > _MAX_NAME:
            raise ReplyError(f"describe reply: {name[:40]!r} is not a short str")
        facts[name] = value
    return facts


def decode_error(content: RecordDict) -> tuple[str, str] | None:
    """Code and name of a failed reply; None if the reply is not one."""
    record = content.config_records.get(ERROR)
    if record is None:
        return None
    code, name = record.get("code"), record.get("name")
    return (
        code if isinstance(code, str) and _CODE.fullmatch(code) else "unknown",
        name if isinstance(name, str) and len(name) <= _MAX_NAME else "",
    )


def decode_error_versions(content: RecordDict) -> dict[str, str]:
    """The versions in a failed reply to describe, unchecked but short; empty if it has none."""
    found = {key: content.config_records[ERROR].get(key) for key in VERSION_KEYS}
    return {k: v for k, v in found.items() if isinstance(v, str) and len(v) <= _MAX_NAME}


# ---------------------------------------------------------------- arrays
def to_record(arrays: Arrays) -> ArrayRecord:
    """Named arrays of any numeric dtype as one Flower record."""
    return ArrayRecord({n: Array(np.asarray(a)) for n, a in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """The arrays of a record.

    Raises:
        ReplyError: an array is not serialised numpy, or its header and its data disagree.
    """
    return {name: _array(name, array) for name, array in record.items()}


def _array(name: str, array: Array) -> np.ndarray:
    """Read one array. Its header is checked first, since numpy allocates what the header says."""
    if len(name) > _MAX_NAME:
        raise ReplyError("an array's name is too long")
    try:
        if array.stype != "numpy.ndarray":
            raise ValueError(f"serialised as {array.stype!r}")
        shape, dtype, start = _header(array.data)
        if dtype.kind not in "fiu":
            raise ValueError(f"dtype {dtype}")
        if math.prod(shape) * dtype.itemsize != len(array.data) - start:
            raise ValueError("header and data disagree")
        return array.numpy()
    except Exception as error:  # numpy evaluates the header, which may raise any exception
        raise ReplyError(f"array {name!r} cannot be read ({type(error).__name__})") from None


def _header(data: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    """Shape, dtype and the offset of the data in a ``.npy`` buffer."""
    buffer = BytesIO(data)
    version = np.lib.format.read_magic(buffer)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = read(buffer)
    return shape, dtype, buffer.tell()


# ---------------------------------------------------------------- records
def check_size(content: RecordDict, limits: ReplyLimits) -> None:
    """Check how much a reply holds, before any of it is decoded.

    Raises:
        ReplyTooLargeError: more than any honest reply.
    """
    limits.check("records", len(content), MAX_RECORDS)
    for record in content.values():
        if isinstance(record, ArrayRecord):
            limits.check("arrays", len(record), limits.arrays)
            data = sum(len(array.data) for array in record.values())
            limits.check("bytes of arrays", data, limits.size)
        else:
            limits.check("entries", _entries(record), limits.entries)
            limits.check("bytes beside arrays", record_bytes(record), limits.small)


def _entries(record: MetricRecord | ConfigRecord) -> int:
    """Values of a record, those in lists counted one by one."""
    lists = sum(len(value) for value in record.values() if isinstance(value, list))
    return len(record) + lists


def payload_bytes(content: RecordDict) -> int:
    """Size of a message's content: serialised arrays, 8 bytes per number, texts.

    (Flower's own ``count_bytes`` raises on an empty text.)
    """
    return sum(record_bytes(record) for record in content.values())


def record_bytes(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    """Size of one record, see :func:`payload_bytes`."""
    if isinstance(record, ArrayRecord):
        return sum(len(name) + len(array.data) for name, array in record.items())
    return sum(len(name) + _value_bytes(value) for name, value in record.items())


def _value_bytes(value: object) -> int:
    if isinstance(value, list):
        return sum(_value_bytes(item) for item in value)
    return len(value) if isinstance(value, str | bytes) else 8


def _metric_record(metrics: Metrics) -> MetricRecord:
    return MetricRecord({name: _plain(value) for name, value in metrics.items()})


def _plain(value: int | float) -> int | float:
    return int(value) if isinstance(value, int | np.integer) else float(value)


def _metrics(record: MetricRecord) -> Metrics:
    metrics: Metrics = {}
    for name, value in record.items():
        if not isinstance(value, int | float) or len(name) > _MAX_NAME:
            raise ReplyError(f"metric {name[:40]!r} is not a single number")
        metrics[name] = value
    return metrics


def _expect(content: RecordDict, layout: Mapping[str, type]) -> None:
    """Exactly these records, of exactly these types."""
    found = {name: type(record) for name, record in content.items()}
    if found != layout:
        wanted = ", ".join(f"{t.__name__} '{n}'" for n, t in sorted(layout.items()))
        got = ", ".join(f"{t.__name__} {n[:40]!r}" for n, t in sorted(found.items())[:8])
        raise ReplyError(f"reply holds {got or 'nothing'}; expected {wanted}")
