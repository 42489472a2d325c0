"""A Flower Grid inside this process: messages go straight to the ClientApp.

The two private names of Flower that this needs (a task's identity, a message's id) are touched
here and nowhere else.
"""

import itertools
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from lumos_core.config import RunConfig

Answer = Callable[[Message, Context], Message | None]


def write_nodes(
    folder: Path,
    nodes: int = 2,
    users: int = 6,
    items: int = 30,
    *,
    title: str = "secret thing",
    seed: int = 7,
) -> Path:
    """A prepared-looking folder: a catalog and node folders with short random histories."""
    draw = random.Random(seed)
    catalog = "item_id\ttitle\n" + "".join(f"i{n}\t{title} {n}\n" for n in range(items))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "catalog.tsv").write_text(catalog)
    for node in range(nodes):
        own = folder / f"node-{node}"
        own.mkdir()
        (own / "catalog.tsv").write_text(catalog)
        rows = [
            f"u{node}x{user}\ti{draw.randrange(items)}\t{time}\n"
            for user in range(users)
            for time in range(draw.randint(4, 9))
        ]
        (own / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + "".join(rows))
    return folder


def tiny_config(folder: Path, **changes: object) -> RunConfig:
    """A run that trains in milliseconds on what :func:`write_nodes` wrote."""
    small = {
        "method": "fedavg", "semantic-start": "none", "dim": 8, "heads": 1, "layers": 1,
        "rounds": 2, "local-epochs": 1, "catalog": str(folder / "catalog.tsv"),
        "run-dir": str(folder / "run"), "start-timeout": 5.0, "round-timeout": 20.0,
    }  # fmt: skip
    return RunConfig.from_flat({**small, **changes})


def node_context(config: RunConfig, node: int, **node_config: object) -> Context:
    """What Flower hands to a ClientApp on node number ``node``."""
    folder = Path(config.catalog).parent / f"node-{node}"
    facts = {"data": str(folder), "name": f"node-{node}", **node_config}
    return Context(
        run_id=1,
        node_id=100 + node,
        node_config=facts,
        state=RecordDict(),
        run_config=config.to_flat(),
    )


def identify() -> None:
    """Outside a Flower task, messages can only be made after this."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


def set_message_id(message: Message, message_id: str) -> Message:
    message.metadata.__dict__["_message_id"] = message_id
    return message


class InProcessGrid(Grid):
    """Answers every message at once, in the order sent.

    Args:
        app: the ClientApp.
        contexts: by node id; may be changed while running.
        tamper: by node id, what to do with messages instead; a result of None is no answer.
    """

    def __init__(self, app: ClientApp, contexts: dict[int, Context]) -> None:
        identify()
        self.app, self.contexts = app, contexts
        self.tamper: dict[int, Answer] = {}
        self.sent: list[Message] = []
        self.replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:  # type: ignore[override]
        raise NotImplementedError

    def send_and_receive(self, *args: object, **kwargs: object) -> Iterable[Message]:  # type: ignore[override]
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node_id = message.metadata.dst_node_id
            if node_id not in self.contexts:
                ids.append("")
                continue
            message_id = f"m{next(self._numbers)}"
            set_message_id(message, message_id)
            self.sent.append(message)
            answer = self.tamper.get(node_id, self.app)
            reply = answer(message, self.contexts[node_id])
            if reply is not None:
                self.replies[message_id] = reply
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.replies.pop(i) for i in message_ids if i in self.replies]
