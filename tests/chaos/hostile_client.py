"""The app as it is, but for one node as long as a file says so: then its replies are wrong in a way
that the file names, or in a random one.

The chaos run puts this file in the place of the app's ``client.py``, which becomes ``honest.py``,
and replaces ORDERS and SUPPORT.
"""

import random
import sys
from pathlib import Path

from flwr.app import Message
from flwr.clientapp import ClientApp

from client_app import honest
from lumos_core.flower import records

HOSTILE = "node-3"
ORDERS = Path("@ORDERS@")
SUPPORT = "@SUPPORT@"

app = ClientApp()
app.query("describe")(honest.answer)
app.query("prepare")(honest.answer)
app.evaluate()(honest.answer)


@app.train()
def train(message, context):
    reply = honest.answer(message, context)
    wanted = ORDERS.read_text() if ORDERS.exists() else ""
    if not wanted or context.node_config["name"] != HOSTILE:
        return reply
    sys.path.insert(0, SUPPORT)
    from malformed_corpus import corpus

    delta, metrics = records.decode_train(reply.content)
    bad = corpus(sorted(delta))
    name = random.choice(sorted(bad)) if wanted == "any" else wanted
    with ORDERS.with_suffix(".sent").open("a") as file:
        file.write(name + "\n")
    return Message(bad[name](delta, metrics), reply_to=message)
