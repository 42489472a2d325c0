"""Nodes of real processes that take a fixed time longer for every training, and no processor."""

from collections.abc import Mapping
from pathlib import Path

from deployment_support import wrapped_app

_WRAPPER = """
import time

from client_app import honest
from lumos_core.flower import records
from flwr.clientapp import ClientApp

app = ClientApp()
app.query("describe")(honest.answer)
app.query("prepare")(honest.answer)
app.evaluate()(honest.answer)


@app.train()
def train(message, context):
    time.sleep({seconds!r}.get(context.node_config["name"], 0.0))
    return honest.answer(message, context)
"""


def slow_app(folder: Path, seconds: Mapping[str, float]) -> Path:
    """A folder with an app for :func:`deployment_support.deploying`.

    Args:
        folder: a new folder.
        seconds: by name of a node, how much longer it takes.
    """
    return wrapped_app(folder, _WRAPPER.format(seconds=dict(seconds)))
