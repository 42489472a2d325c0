"""Forgetting users of a node: everything on its disk that holds something of them.

=====================  ==========================================================================
data                   rows of the file of interactions; the file is written anew without them
unfinished copies      temporary files of processes that were killed while they wrote these files
cached histories       ``histories.npz`` and ``snapshot.npz``, the data of the run that goes on;
                       they are made again from the data
views                  views in the node's store, and in the one that the nodes of a prepared
                       folder share, that are not of a user who stays
error feedback         ``residuals/``: the unsent rest of a delta is a sum over all users, from
                       which one cannot be taken out again
kept models            ``model/``: what this node received for ``lumos recommend``
log of errors          ``node.log``: texts of errors may quote a user's id or items
=====================  ==========================================================================

Of these only the data and the views can be told apart by user. Everything else is dropped whole;
the node makes or receives it again. What stays in the state folder knows no user: the ledger,
``spent.json`` (ε that was spent does not come back), ``noise.key``, keys of secure aggregation, and
logs of processes, in which exceptions have no text.

**An interruption is repaired by the same command.** Before anything is removed, a salted digest of
the ids is written to ``forgetting.json``, which is deleted at the very end. By it the command knows
the users again when they are gone from the data. Before the data it also writes ``forgotten.json``,
digests that stay: rows of these users that arrive later are not taken. The data come first: a node
that is started after an interruption trains without the users. At the end the ledger gets a line
with counts and no ids.
"""

import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lumos_core.config import NodeConfig
from lumos_core.data.forgotten_users import FORGOTTEN_USERS, ForgottenUsers
from lumos_core.data.layout import CATALOG_FILE, DATASET_FILE, shared_state
from lumos_core.data.node_cache import KEPT as CACHE
from lumos_core.data.node_cache import SNAPSHOT
from lumos_core.data.node_folder import read_node
from lumos_core.data.prepared_folder import NODE_FILE, node_folders
from lumos_core.data.removed_users import Removal, delete, leftovers, removal_of
from lumos_core.data.rewriting import changing_data
from lumos_core.data.sequences import Sequences
from lumos_core.data.splits import LeaveOneOut
from lumos_core.deployment.supervision import alone
from lumos_core.deployment.unfinished import UNFINISHED, Unfinished
from lumos_core.errors import DataError, reason_of
from lumos_core.federation import error_feedback
from lumos_core.logs import NODE_LOG
from lumos_core.privacy.ledger_file import FORGOTTEN, write_line
from lumos_core.privacy.node_budget import Account, AccountError, bounded
from lumos_core.recommend.model_files import KEPT_FINAL, KEPT_LATEST
from lumos_core.safe_files import older, private_folder
from lumos_core.views.item_names import ItemNames
from lumos_core.views.source import STORE
from lumos_core.views.view_store import ViewStore

_RUNNING = (
    "this node is running, and what it is working on would bring the users back; end 'lumos node "
    "start' (a unit: systemctl stop lumos-node@NAME), call this again, and start it after that"
)


@dataclass(frozen=True)
class Step:
    """Something on the disk that is removed or written anew.

    Attributes:
        what: a name for it, as in the table of this module.
        where: the file or folder.
        text: what happens to it, in plain words.
        size: its bytes now.
        carry_out: does it; may be repeated.
    """

    what: str
    where: Path
    text: str
    size: int
    carry_out: Callable[[], None]


@dataclass(frozen=True)
class Forgetting:
    """What forgetting users means on this node; nothing is removed before :meth:`carry_out`.

    Attributes:
        node: the node's settings.
        removal: from the data.
        unfinished: with these users, and with those of an earlier call that was interrupted.
        resumed: whether there was one.
        steps: in the order in which they are carried out.
    """

    node: NodeConfig
    removal: Removal
    unfinished: Unfinished
    resumed: bool
    steps: tuple[Step, ...]

    def carry_out(self) -> Iterator[Step]:
        """Take all steps, and write the line of the ledger; yields each step that is done.

        Raises:
            DataError: something cannot be removed or written; the same command continues then.
        """
        state = self.node.state_folder
        try:
            self.unfinished.write(state / UNFINISHED, 0o600)
            self._keep_away(state)
            for step in self.steps:
                step.carry_out()
                yield step
            write_line(state, self._line())
            delete(state / UNFINISHED)
        except OSError as error:
            where = getattr(error, "filename", None) or state
            raise DataError(
                f"{where}: cannot be removed or written: {reason_of(error)}; not everything was "
                "removed: repair this and give the same command again, which does the rest"
            ) from error

    def _keep_away(self, state: Path) -> None:
        """Rows of these users that arrive later are not taken."""
        if not self.unfinished.users:
            return
        with changing_data(state):
            known = ForgottenUsers.of_node(state)
            longer = known.adding(self.unfinished.salt, self.unfinished.users)
            longer.write(state / FORGOTTEN_USERS, 0o600)

    def _line(self) -> dict[str, object]:
        return {
            "run": "",
            "round": 0,
            "message": FORGOTTEN,
            "records": [],
            "users": len(self.unfinished.users),
            "interactions": self.unfinished.interactions,
            "removed": list(dict.fromkeys(step.what for step in self.steps)),
        }


@contextmanager
def only_this(node: NodeConfig) -> Iterator[None]:
    """Hold the node's state folder, so that it is not started meanwhile.

    Raises:
        FederationError: the node is running.
    """
    state = node.state_folder
    private_folder(state)
    with alone(state, _RUNNING):
        try:
            yield
        finally:
            _give_back(state)


def forgetting(node: NodeConfig, users: Collection[str]) -> Forgetting:
    """What forgetting these users means; nothing is removed yet.

    Args:
        node: the node's settings.
        users: ids; none to remove only what was made from users who are not in the data any more.

    Raises:
        DataError: a user is unknown, nobody would be left to train with, or the data are malformed.
    """
    before = Unfinished.of_node(node.state_folder)
    salts = list(ForgottenUsers.of_node(node.state_folder).users)
    unfinished = before or Unfinished(salt=salts[0] if salts else secrets.token_hex(16))
    removal = removal_of(Path(node.data), users)
    unknown = [u for u in users if u not in removal.found and not unfinished.has(u)]
    if unknown:
        raise DataError(_unknown(removal, unknown))
    unfinished = unfinished.adding(removal)
    steps = tuple(_steps(node, removal))
    return Forgetting(node, removal, unfinished, before is not None, steps)


def what_remains(found: Forgetting) -> list[str]:
    """What no command can take back, and what LUMOS does not know of: a paragraph each."""
    return [*_learned(found.node), *_elsewhere(found), *_consequences(found)]


def _unknown(removal: Removal, users: list[str]) -> str:
    path, count = removal.path, removal.table.frame["user_id"].n_unique()
    return (
        f"{path}: has no user {', '.join(map(repr, users))} among its {count}, so nothing was "
        "removed; check the spelling. Of a user whose rows you removed yourself, "
        "'lumos node forget --derived' without --user removes the rest; when users were forgotten "
        "before is in 'lumos node ledger'"
    )


# ---------------------------------------------------------------- the steps
def _steps(node: NodeConfig, removal: Removal) -> Iterator[Step]:
    state = node.state_folder
    if removal.found:
        rows = f"{removal.interactions:,} of {len(removal.gone):,} interactions"
        text = f"{rows} are taken out; the file is written anew with all others"

        def write() -> None:
            with changing_data(state):
                removal.write()

        yield Step("data", removal.path, text, _size(removal.path), write)
    cache, snapshot = state / CACHE, state / SNAPSHOT
    models = [state / name for name in (KEPT_FINAL, KEPT_LATEST)]
    written = (removal.path, cache, snapshot, *models)
    for path in written:
        yield from _deleted(
            "unfinished copies",
            f"left by processes that were killed while they wrote {path.name}",
            *leftovers(path),
        )
    yield from _deleted(
        "cached histories",
        "all users' histories; made again from the data when needed",
        cache,
        snapshot,
    )
    items = ItemNames(removal.catalog)
    yield from _views(state / STORE, items, removal.staying)
    yield from _shared_views(Path(node.data).resolve(), items, removal.staying)
    yield from _deleted(
        "error feedback",
        "what was not sent of earlier deltas: a sum over all users, from which one cannot be taken "
        "out; the next round begins without it",
        state / error_feedback.FOLDER,
    )
    yield from _deleted(
        "kept models",
        "received global models; they do not say whose histories they learned from, so they go "
        "whether they saw these users or not; the next round brings a new one",
        *models,
    )
    yield from _deleted(
        "log of errors",
        "texts of errors may quote a user's id or items",
        *(state / NODE_LOG, older(state / NODE_LOG)),
    )


def _deleted(what: str, text: str, *paths: Path) -> Iterator[Step]:
    """A step for those of these files and folders that are there, if any is."""
    there = [path for path in paths if path.exists()]

    def delete_all() -> None:
        for path in there:
            delete(path)

    if there:
        where = there[0] if len(there) == 1 else there[0].parent
        yield Step(what, where, text, sum(map(_size, there)), delete_all)


def _views(path: Path, items: ItemNames, staying: Sequences) -> Iterator[Step]:
    """A step for a store of views: only views of users who stay are kept."""
    if not path.is_file():
        return
    histories = [history.tolist() for history in LeaveOneOut(staying).train()]
    with ViewStore(path, items=items) as store:
        count, others = len(store), len(store.others(histories))

    def clean() -> None:
        with ViewStore(path, items=items) as store:
            store.remove(store.others(histories))

    text = (
        f"{others:,} of {count:,} views are removed: all but those of the present histories of "
        "users who stay"
    )
    yield Step("views", path, text, _size(path), clean)


def _shared_views(folder: Path, items: ItemNames, staying: Sequences) -> Iterator[Step]:
    """The same for the store that all nodes of a prepared folder share, if this is one of them."""
    prepared = folder.parent
    path = shared_state(prepared) / STORE
    if not path.is_file() or not (prepared / DATASET_FILE).is_file():
        return
    nodes = [node for node in node_folders(prepared) if node.is_dir()]
    if folder in nodes:
        others = [read_node(node)[1] for node in nodes if node != folder]
        yield from _views(path, items, Sequences.concat([staying, *others]))


# ---------------------------------------------------------------- what remains
def _learned(node: NodeConfig) -> Iterator[str]:
    yield (
        "The federation's global model, and every copy of it, stays as it is. Deltas that were "
        "sent cannot be taken back, and the models that this node receives from now on continue "
        "from that model."
    )
    try:
        spent = Account(node.state_folder).read()
    except AccountError as error:
        yield f"What these users' histories have cost is not known: {error}."
        return
    delta, counted = node.epsilon_delta, spent.trainings - spent.uncounted
    if not spent.trainings:
        yield (
            f"{Account(node.state_folder).path} counts no training of this node: as far as it "
            "knows, no model has learned from these users here."
        )
    if counted:
        epsilon = bounded(spent.epsilon(delta))
        bound = "no bound" if epsilon is None else f"at most ε = {epsilon:.3g} (δ = {delta:g})"
        yield (
            f"{counted} trainings had noise that hides what a single user adds. What all of them "
            f"together give away about a user is {bound}."
        )
    if spent.uncounted:
        yield (
            f"{spent.uncounted} trainings had no noise that this node can be sure of. What models "
            "have learned from these users in them has no bound, and only training a new model "
            "without these users removes it."
        )


def _elsewhere(found: Forgetting) -> Iterator[str]:
    yield (
        "LUMOS does not know of the log that the data were prepared from (the next 'lumos prepare' "
        "of it writes the users' rows again; the node does not train with them), nor of "
        "recommendations, exports, run folders and backups that you have elsewhere. Remove "
        "the users there yourself. A disk may keep deleted blocks "
        "until it needs them, and snapshots of a file system keep them on purpose."
    )
    if others := list(_unknown_files(found)):
        names = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        yield f"Not looked into, as LUMOS does not know them: {names} in {found.removal.folder}."
    if found.removal.path.stat().st_nlink > 1:
        yield f"{found.removal.path} has another name (a hard link), which keeps the old content."


def _unknown_files(found: Forgetting) -> Iterator[str]:
    removal, state = found.removal, found.node.state_folder.resolve()
    known = {removal.table.path.name, removal.path.name, CATALOG_FILE, NODE_FILE}
    known |= {path.name for path in leftovers(removal.path)}
    for path in sorted(removal.folder.iterdir()):
        if path.name not in known and path.resolve() not in (state, removal.path):
            yield path.name


def _consequences(found: Forgetting) -> Iterator[str]:
    left, least = len(found.removal.staying), found.node.min_users
    if left < least:
        yield (
            f"From now on this node refuses every run: {left} users are left, and min-users = "
            f"{least} in node.toml."
        )


# ---------------------------------------------------------------- files
def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files: Iterable[Path] = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _give_back(state: Path) -> None:
    """Give what root has made in the state folder to the folder's owner: the node could not use it
    otherwise."""
    owner = state.stat()
    if os.geteuid() or not owner.st_uid:
        return
    for path in state.iterdir():
        with suppress(FileNotFoundError):
            if path.lstat().st_uid == 0:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
