"""Error feedback: what a codec did not send in one round is added to the next delta.

(Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019.) What is owed after round r is kept
under the number r. Training round r takes the newest debt of a round *before* r and forgets those
of r and later: they come from a round that failed or was undone by a crash of the server, and is
now done again. So nothing is ever added twice, however often a round is repeated.
"""

from pathlib import Path

from lumos_core.errors import DataError
from lumos_core.learning.parameters import Params
from lumos_core.safe_files import private_folder, write_atomically

KEPT = 2
"""The debt a round began with and the one it left: enough to repeat that round."""


class Residuals:
    """The debts of one node in one run.

    Args:
        folder: where they lie, a file a round; in memory only if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._memory: dict[int, Params] = {}

    def before(self, round: int) -> Params | None:
        """What is owed when ``round`` begins; None if nothing is.

        Raises:
            DataError: the file is damaged.
        """
        for late in [r for r in self._rounds() if r >= round]:
            self._forget(late)
        earlier = self._rounds()
        return self._load(earlier[-1]) if earlier else None

    def keep(self, round: int, owed: Params) -> None:
        """Remember what is owed after ``round``."""
        if self._folder is None:
            self._memory[round] = owed
        else:
            from safetensors.numpy import save

            private_folder(self._folder)
            write_atomically(self._path(round), save(owed), mode=0o600)
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
                f"{path}: found a damaged file ({type(error).__name__}), expected what the last "
                "round left to send; delete it to go on without"
            ) from None

    def _forget(self, round: int) -> None:
        if self._folder is None:
            self._memory.pop(round, None)
        else:
            self._path(round).unlink(missing_ok=True)

    def _path(self, round: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{round}.safetensors"
