"""A node that answers with far too much, and what that costs the server; for the tests of oversized
replies and for ``benchmarks/oversized_replies.py``."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from deployment_support import named, wrapped_app

_WRAPPER = '''
"""The app as it is, but node-2 answers the first train instruction with far too much."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client_app import honest
from lumos_core.flower import records

KIND = "{kind}"
COUNT = {count}
app = ClientApp()
app.query("describe")(honest.answer)
app.evaluate()(honest.answer)


def declared(shape, data):
    return Array(dtype="float32", shape=shape, stype="numpy.ndarray", data=data)


def too_much():
    metrics = MetricRecord({{"users": 1}})
    if KIND == "arrays":
        arrays = {{f"a{{n}}": Array(np.float32([n])) for n in range(COUNT)}}
    elif KIND == "zeros":
        arrays = {{"items.weight": Array(np.zeros(COUNT, np.uint8))}}
    elif KIND == "shape":
        header = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.float32))
        import io
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {{**header, "shape": (COUNT,)}})
        arrays = {{"items.weight": declared((COUNT,), file.getvalue() + b"few")}}
    elif KIND == "metrics":
        arrays, metrics = {{}}, MetricRecord({{f"m{{n}}": float(n) for n in range(COUNT)}})
    elif KIND == "list":
        return RecordDict({{"error": ConfigRecord({{"list": [float(n) for n in range(COUNT)]}})}})
    else:
        fields = {{f"{{n:0{digits}}}": n for n in range(COUNT)}}
        return RecordDict({{"error": ConfigRecord(fields)}})
    return RecordDict({{"delta": ArrayRecord(arrays), "metrics": metrics}})


@app.train()
def train(message, context):
    order = records.decode_order(message.content)
    if KIND == "none" or context.node_config["name"] != "node-2" or order.round > 1:
        return honest.answer(message, context)
    return Message(too_much(), reply_to=message)
'''
SERVER_PROGRAMS = ("flower-superlink", "flwr-serverapp")
"""What answers to nodes: programs of a supervisor's processes."""


def oversized_app(folder: Path, kind: str, count: int, digits: int = 100) -> Path:
    """A folder with a ``client_app`` whose node-2 sends too much in round 1.

    Args:
        folder: a new folder.
        kind: ``arrays`` of one number, ``zeros`` (bytes of one array), ``shape`` (of so many
            numbers, with three bytes), ``metrics``, ``list`` (numbers in one field of a record),
            ``entries`` (fields of a record), or ``none``: an honest node.
        count: how many.
        digits: of the name of a record's field.
    """
    return wrapped_app(folder, _WRAPPER.format(kind=kind, count=count, digits=digits))


def peak_memory(pid: int) -> int:
    """The most memory that a process has used, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def peaks_of(
    supervisor: int, ended: Callable[[], bool], programs: Sequence[str] = SERVER_PROGRAMS
) -> dict[str, int]:
    """Peak memory of the processes that run these programs, watched until the run is over.

    Args:
        supervisor: the process that they descend from.
        ended: whether the run is over.
        programs: their names.
    """
    found = dict.fromkeys(programs, 0)
    while not ended():
        for program in programs:
            for process in named(supervisor, program):
                try:
                    found[program] = max(found[program], peak_memory(process.pid))
                except (OSError, psutil.Error):
                    continue
        time.sleep(0.1)
    return found
