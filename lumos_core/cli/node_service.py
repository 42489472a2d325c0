"""The HTTP service of a node, with its owner's page: what ``lumos serve`` and ``lumos node page``
start."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from socket import socket

    from starlette.types import ASGIApp

    from lumos_core.config import NodeConfig
    from lumos_core.serving.access_token import Access
    from lumos_core.serving.newest_model import Newest


@dataclass(frozen=True)
class NodeService:
    """A service that listens.

    Attributes:
        url: its address.
        access: who may ask.
        newest: data and model in use.
    """

    url: str
    access: "Access"
    newest: "Newest"
    _app: "ASGIApp"
    _listening: "socket"

    @classmethod
    def of(
        cls, node: "NodeConfig", host: str, port: int, *, token_file: Path | None = None,
        model: Path | None = None, include_seen: bool = False, threads: int = 1,
    ) -> "NodeService":  # fmt: skip
        """Read data and model, and listen; logs are configured, too.

        Args:
            node: its settings.
            host, port: the address to listen on.
            token_file, model, include_seen: as options of ``lumos serve``.
            threads: rankings at a time.

        Raises:
            ConfigError: the address cannot be listened on, or the token cannot be read.
            DataError: the data cannot be read.
            ModelError: ``model`` is given and cannot be used.
        """
        # these import torch and polars
        import torch

        from lumos_core import logs
        from lumos_core.serving.access_token import Access
        from lumos_core.serving.http_service import http_service
        from lumos_core.serving.listening import LIBRARY_LOGS, open_socket, url_of
        from lumos_core.serving.newest_model import Newest
        from lumos_core.serving.owner_service import Owner

        logs.configure(node.log_format, node.log_level, others=LIBRARY_LOGS)
        torch.set_num_threads(1)  # of each ranking: more threads cost more than they save
        access = Access.of(host, token_file, node.state_folder)
        newest = Newest(Path(node.data), node.state_folder, model, include_seen=include_seen)
        listening = open_socket(host, port)
        owner = Owner(node, newest, _Forget(node))
        app = http_service(newest, access, threads=threads, owner=owner)
        return cls(url_of(listening), access, newest, app, listening)

    def run(self) -> None:
        """Answer until a signal. Raises KeyboardInterrupt after Ctrl-C."""
        from lumos_core.serving.listening import serve_until_signal

        serve_until_signal(self._app, self._listening, self.newest)


@dataclass(frozen=True)
class _Plan:
    removed: Sequence[tuple[str, str]]
    remains: Sequence[str]


@dataclass(frozen=True)
class _Forget:
    """``lumos node forget`` for the page."""

    node: "NodeConfig"

    def plan(self, user: str) -> _Plan:
        from lumos_core.deployment.forgetting import forgetting, only_this, what_remains

        with only_this(self.node):  # so that it is said now that the node must be ended first
            found = forgetting(self.node, (user,))
            steps = [(step.what, step.text) for step in found.steps]
            return _Plan(steps, list(what_remains(found)))

    def carry_out(self, user: str) -> str:
        from lumos_core.deployment.forgetting import forgetting, only_this

        with only_this(self.node):
            found = forgetting(self.node, (user,))
            for _ in found.carry_out():
                pass
        left = found.removal.staying.users_text
        return f"The user is forgotten; this node has {left} to train with."
