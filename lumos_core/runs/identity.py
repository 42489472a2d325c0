"""The name of a run that no other run has: nodes know by it which messages belong together.

It is drawn when the run begins, kept in its folder, and stays when the server is restarted. Two
runs with the same configuration have different ones.
"""

import secrets
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from lumos_core.errors import LumosError, ModelError
from lumos_core.safe_files import JsonFile

IDENTITY = "identity.json"
"""Its file in a run's folder."""


class RunIdentity(JsonFile):
    """``identity.json``.

    Attributes:
        run: random hexadecimal digits.
    """

    failure: ClassVar[type[LumosError]] = ModelError
    repair: ClassVar[str] = (
        "restore the file, or delete it: then nodes read their data anew in the middle of the run"
    )

    run: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]

    @classmethod
    def of(cls, run_dir: Path) -> Self:
        """The name of the run in a folder; drawn and written if it has none.

        Raises:
            ModelError: the file is damaged.
            OSError: it cannot be written.
        """
        path = run_dir / IDENTITY
        found = cls.read_if_there(path)
        if found is None:
            found = cls(run=secrets.token_hex(16))
            found.write(path)
        return found
