"""``config.json``: the configuration that a run began with.

This module must not need torch: ``lumos status`` reads the file.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from lumos_core.config import RunConfig
from lumos_core.errors import ConfigError, LumosError
from lumos_core.safe_files import JsonFile

CONFIG = "config.json"
"""Its name in a run folder."""
_ALWAYS = ("method", "seed", "rounds", "catalog", "min-nodes", "min-replies")
"""Keys that every version has written. Others may have been added after a run began, see
:meth:`RunConfig.from_saved`."""
_EXPECTED = "a JSON object whose key 'run' holds the keys of a run"
_REPAIR = "restore the file from a copy, or begin another run with another --run-dir"


class SavedConfig(JsonFile):
    """The file's content; it is written before a run begins or is resumed.

    Attributes:
        run: the run's flat configuration, not checked; None in a ``config.json`` that is not a
            run's, such as that of an exported model.
        nodes: facts about its nodes, for people to read.
    """

    failure: ClassVar[type[LumosError]] = ConfigError
    repair: ClassVar[str] = f"it is damaged: {_REPAIR}"

    run: dict[str, Any] | None = None
    nodes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _may_hold_a_run(cls, found: Any) -> Any:
        run = found.get("run") if isinstance(found, dict) else found
        if not isinstance(found, dict) or not isinstance(run, dict | None):
            raise ValueError(f"found {json.dumps(run)[:60]}, expected {_EXPECTED}")
        return found

    def checked(self, path: Path) -> RunConfig:
        """The run's configuration.

        Args:
            path: the file that this was read from, for error messages.

        Raises:
            ConfigError: there is none, it lacks keys, or it has keys that this LUMOS does not know.
        """
        if self.run is None:
            raise ConfigError(f"{path}: found null, expected {_EXPECTED}; {self.repair}")
        for key in _ALWAYS:
            if self.run.get(key, "") == "":
                raise ConfigError(f"{path}: key '{key}' of 'run' is missing; {self.repair}")
        try:
            return RunConfig.from_saved(self.run)
        except ConfigError as error:
            raise ConfigError(
                f"{path}: {error}; it is damaged or of another version of LUMOS: {_REPAIR}"
            ) from None
