"""``summary.json``: how a run ended. Only this file says whether a run succeeded.

This module must not need torch: ``lumos status`` reads the file.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from lumos_core.runs.view_coverage import RunViews
from lumos_core.safe_files import JsonFile

SUMMARY = "summary.json"
"""Its name in a run folder, once the run has ended."""


class RunSummary(JsonFile):
    """The file that the server writes when a run has ended.

    A run that failed before its first round sets only a few of the keys. Keys that were not set are
    not written, and have their defaults when the file is read.

    Attributes:
        outcome: "completed" only if no round failed.
        reason: why it failed or, if it completed before its last round, why; empty otherwise.
        rounds: number of finished rounds.
        best_round: the round whose model was best on the validation targets; -1 before any
            evaluation.
        validation, test: metrics of that model, means over users.
        title_weight: of the titles' nearness in that model's rankings.
        epsilon: ε spent; None without differential privacy or without noise.
        views: whether views were missing; None for methods without views.
        bytes_up, bytes_down: payload of all rounds, from and to nodes.
        method, seed: those of the run.
        seconds: running time of the server's last process.
        versions: versions of Python and of the packages that the run depends on.
    """

    repair: ClassVar[str] = "it is damaged: remove it, and the same command resumes the run"

    outcome: Literal["completed", "failed"]
    reason: str = ""
    rounds: int = 0
    best_round: int = -1
    validation: dict[str, float] = Field(default_factory=dict)
    test: dict[str, float] = Field(default_factory=dict)
    title_weight: float | None = None
    epsilon: float | None = None
    views: RunViews | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    method: str = ""
    seed: int = 0
    seconds: float = 0.0
    versions: dict[str, str] = Field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """The schema version, and the keys that were set."""
        keys = {"schema_version", *self.model_fields_set}
        written = super().content()
        return {k: v for k, v in written.items() if k in keys and v is not None}

    def missing(self, *keys: str) -> str:
        """The first of ``keys`` that was not set; empty if all were set."""
        return next((key for key in keys if key not in self.model_fields_set), "")
