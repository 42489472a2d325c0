"""How views are written: the settings that all writers share."""

from typing import NamedTuple

from lumos_core.views.titles.judgements import Judges


class ViewSettings(NamedTuple):
    """How views are written; part of a writer's fingerprint.

    The language model's writers put all fields into it, in this order: if a field is added, removed
    or moved, they write all stored views again. The controls use only ``future_items``, ``recent``
    and ``seed``.
    """

    noun: str = "products bought by a customer"
    """What a history is, in the domain's words."""
    future_items: int = 5
    """New items in a future view."""
    recent: int = 8
    """Items at the end of the history that are rewritten."""
    prompt_items: int = 4
    """Items at the end of the history that the model reads."""
    candidates: int = 8
    """Items among which the future is chosen (at least 1.6 times ``future_items``)."""
    seed: int = 0
    """Of all random draws."""
    judges: Judges = "future"
    """What the model is asked about: the future alone, or all three views."""

    @property
    def judges_all(self) -> bool:
        return self.judges == "all"
