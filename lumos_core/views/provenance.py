"""Who wrote views: a note that a store keeps with each writer's fingerprint.

The fingerprint decides which views are found and which are written again, but means nothing to a
person. The note describes the writer for ``lumos views list`` and ``lumos views show``.
"""

from typing import NamedTuple

from lumos_core import __version__
from lumos_core.config import NodeConfig, RunConfig
from lumos_core.views.view import BY_CONTENT

SHORT = 16
"""How many hexadecimal digits of a fingerprint are shown: enough to choose a writer by."""


class Writer(NamedTuple):
    """A view writer as a store knows it."""

    fingerprint: str
    """SHA-256 hex of all that views depend on except the history; see
    :func:`~lumos_core.views.view.writer_digest`."""
    name: str
    """llm, tfidf, random, or the name of a plug-in."""
    model: str = ""
    """As the configuration names it; this, ``mode`` and ``noun`` are empty without an LLM."""
    mode: str = ""
    """How the model is asked: score, trie or free."""
    noun: str = ""
    """What a history is, in the domain's words."""
    version: str = ""
    """The version of LUMOS that noted this writer first."""

    @property
    def short(self) -> str:
        """The fingerprint as it is shown."""
        start = len(BY_CONTENT) if self.fingerprint.startswith(BY_CONTENT) else 0
        return self.fingerprint[: start + SHORT]

    def __str__(self) -> str:
        told = (self.name, self.model, self.mode, self.noun and f"“{self.noun}”")
        return " · ".join(part for part in told if part)


def writer_of(config: RunConfig, node: NodeConfig, fingerprint: str) -> Writer:
    """The note on the writer that a configuration asks for.

    Args:
        config: ``views``, ``llm``, …; "shuffled" views are the LLM's.
        node: its LLM choice wins over the run's.
        fingerprint: that of the configured writer.

    Raises:
        ModelError: the model cannot be found.
    """
    if config.views not in ("llm", "shuffled"):
        return Writer(fingerprint, config.views, version=__version__)
    from lumos_core.views.llm.find import llm_config
    from lumos_core.views.writers.choose import choose_mode

    choice = llm_config(config, node)
    quantised = "" if choice.quantization == "none" else f" ({choice.quantization})"
    mode = choose_mode(config, choice)
    return Writer(
        fingerprint, "llm", f"{choice.llm}{quantised}", mode, config.llm_noun, __version__
    )
