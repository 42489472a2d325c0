"""A node that adds noise instead of training; no torch, so that it starts as fast as can be."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    rng = np.random.default_rng()
    arrays = [
        a + rng.standard_normal(a.shape, dtype=np.float32)
        for a in message.content["arrays"].to_numpy_ndarrays()
    ]
    content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    metrics = MetricRecord({"num-examples": 1, "loss": 0.0})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
