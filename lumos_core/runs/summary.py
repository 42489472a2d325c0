"""``summary.json``: how a run ended. It alone says whether a run succeeded.

Needs no torch: ``lumos status`` reads it.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from lumos_core.runs.view_coverage import RunViews
from lumos_core.safe_files import JsonFile

SUMMARY = "summary.json"
"""Its name in a run folder, once the run has ended."""


class RunSummary(JsonFile):
    """What the server writes when a run has ended.

    A run that failed before its first round has a few of the keys only; what nobody has set is not
    written, and has its default when it is read.

    Attributes:
        outcome: "completed" only if no round failed.
        reason: why it failed or, if it completed, why before its last round; empty otherwise.
        rounds: finished.
        best_round: whose model was best on the validation targets; -1 before any evaluation.
        validation, test: metrics of that model, means over users.
        epsilon: spent; None without differential privacy or without noise.
        views: None for methods without views.
        bytes_up, bytes_down: of all rounds, from and to nodes.
        method, seed: of the run.
        seconds: that the server's last process took.
        versions: of Python and of the packages that the run depends on.
    """

    repair: ClassVar[str] = "it is damaged: remove it, and the same command goes on with the run"

    outcome: Literal["completed", "failed"]
    reason: str = ""
    rounds: int = 0
    best_round: int = -1
    validation: dict[str, float] = Field(default_factory=dict)
    test: dict[str, float] = Field(default_factory=dict)
    epsilon: float | None = None
    views: RunViews | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    method: str = ""
    seed: int = 0
    seconds: float = 0.0
    versions: dict[str, str] = Field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """The version, and what was set."""
        keys = {"schema_version", *self.model_fields_set}
        written = super().content()
        return {k: v for k, v in written.items() if k in keys and v is not None}

    def missing(self, *keys: str) -> str:
        """The first of some keys that was not set, by name; empty if all were."""
        return next((key for key in keys if key not in self.model_fields_set), "")
