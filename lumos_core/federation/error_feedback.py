"""Error feedback: what a codec did not send in one round is added to the next delta.

(Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019.) The residual, the part that was not
sent in round r, is stored under the number r. Training round r uses the newest residual of a round
*before* r and deletes those of r and later: they come from a round that failed, or that a crash of
the server undid, and that is now repeated. So nothing is ever added twice, however often a round is
repeated.

The residuals of other runs are deleted after 30 days in which these runs have stored none.
"""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from lumos_core.config import RunConfig
from lumos_core.errors import DataError
from lumos_core.learning.parameters import Params
from lumos_core.safe_files import private_folder, write_atomically
from lumos_core.wire.codecs import codec

FOLDER = "residuals"
"""Its name in a node's state folder; below it there is a folder for each run."""
KEPT = 2
"""Residuals to keep: the one that a round began with and the one that it left. With both the round
can be repeated."""
FORGET_SECONDS = 30 * 24 * 3600.0
_RUN = "[0-9a-f]" * 16  # names of folders, see lumos_core.runs.resume.run_key


def leaves_residuals(config: RunConfig) -> bool:
    """Whether nodes of a run keep what its codec does not send."""
    return config.error_feedback and not codec(config.delta_codec).lossless


class Residuals:
    """The residuals of one node in one run.

    Args:
        folder: where they are stored, one file per round, beside the folders of other runs; in
            memory only if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._memory: dict[int, Params] = {}

    def before(self, round: int) -> Params | None:
        """The residual that ``round`` begins with; None if there is none.

        Raises:
            DataError: the file is damaged.
        """
        for late in [r for r in self._rounds() if r >= round]:
            self._forget(late)
        earlier = self._rounds()
        return self._load(earlier[-1]) if earlier else None

    def keep(self, round: int, owed: Params) -> None:
        """Store the residual that ``round`` leaves."""
        if self._folder is None:
            self._memory[round] = owed
        else:
            from safetensors.numpy import save

            private_folder(self._folder)
            write_atomically(self._path(round), save(owed), mode=0o600)
            self._forget_other_runs(self._folder)
        for old in self._rounds()[:-KEPT]:
            self._forget(old)

    def _rounds(self) -> list[int]:
        if self._folder is None:
            return sorted(self._memory)
        return sorted(int(path.stem) for path in self._folder.glob("[0-9]*.safetensors"))

    def _load(self, round: int) -> Params:
        if self._folder is None:
            return self._memory[round]
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self._path(round)
        try:
            return load(path.read_bytes())
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: found a damaged file ({type(error).__name__}), expected the part of the "
                "last delta that was not sent; delete the file to continue without it"
            ) from None

    def _forget(self, round: int) -> None:
        if self._folder is None:
            self._memory.pop(round, None)
        else:
            self._path(round).unlink(missing_ok=True)

    def _forget_other_runs(self, own: Path) -> None:
        for folder in own.parent.glob(_RUN):
            with suppress(OSError):  # another process was faster, or may not: next time
                if folder != own and folder.stat().st_mtime < time.time() - FORGET_SECONDS:
                    shutil.rmtree(folder)

    def _path(self, round: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{round}.safetensors"
