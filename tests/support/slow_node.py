"""A node of real processes that takes a fixed time longer for every training, and no processor."""

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
    if context.node_config["name"] == {name!r}:
        time.sleep({seconds!r})
    return honest.answer(message, context)
"""


def slow_app(folder: Path, name: str, seconds: float) -> Path:
    """A folder with an app for :func:`deployment_support.deploying`.

    Args:
        folder: a new folder.
        name: the slow node.
        seconds: how much longer it takes.
    """
    return wrapped_app(folder, _WRAPPER.format(name=name, seconds=seconds))
