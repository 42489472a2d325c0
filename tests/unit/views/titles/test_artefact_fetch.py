"""An artefact that comes from the server in pieces: what is accepted, refused, and kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_llm import save_tiny_llm

from lumos_core.config import NodeConfig, RunConfig
from lumos_core.data.catalog import Catalog
from lumos_core.errors import ArtefactError
from lumos_core.views.llm.find import llm_config, model_fingerprint
from lumos_core.views.llm.load import load_llm
from lumos_core.views.titles import artefact_fetch, artefact_pieces
from lumos_core.views.titles.artefact_choice import chosen_artefact
from lumos_core.views.titles.artefact_fetch import NOTHING, Fetch, Wanted
from lumos_core.views.titles.artefact_offer import Offer
from lumos_core.views.titles.artefact_pieces import MAX_BYTES, Offered, Piece, most_bytes
from lumos_core.views.titles.artefact_reading import build_artefact
from lumos_core.views.titles.catalog_artefact import CatalogArtefact
from lumos_core.views.view import BY_CONTENT
from lumos_core.views.writers.choose import view_factory

TITLES = tuple(
    f"{colour} {thing}" for colour in ("red", "blue") for thing in ("pen", "lamp", "ink")
)
PIECE = 1_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llm(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (artefact_pieces, artefact_fetch, artefact_offer_module()):
        monkeypatch.setattr(module, "PIECE_BYTES", PIECE)


def artefact_offer_module() -> Any:
    from lumos_core.views.titles import artefact_offer

    return artefact_offer


def folder(path: Path) -> Catalog:
    Catalog(TITLES, TITLES).write(path / "catalog.tsv")
    return Catalog.read(path / "catalog.tsv")


class Machine:
    """A node, and what it has been offered."""

    def __init__(self, place: Path, config: RunConfig, offered: Offered) -> None:
        self.catalog, self.config = folder(place / "node"), config
        self.node, self.offered = NodeConfig(data=str(place / "node")), offered
        self.cache = place / "cache" / "catalogs"

    def answer(self, piece: Piece | None = None, **changes: Any) -> Wanted:
        offered = self.offered._replace(**changes)
        return Fetch(self.config, self.node, offered, lambda: self.catalog).answer(piece)

    def files(self) -> list[str]:
        found = (path.name for path in self.cache.glob("*") if path.suffix != ".lock")
        return sorted(name for name in found if not name.endswith(".lock"))


@pytest.fixture
def made(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunConfig, Any]:
    """A server's artefact."""
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "server-cache"))
    config = RunConfig().replace(llm=str(model), method="lumos", views="llm")
    catalog = folder(tmp_path / "server")
    artefact = build_artefact(
        load_llm(llm_config(config)), llm_config(config), catalog, config.llm_noun
    )
    artefact.write(tmp_path / "server" / "catalog.safetensors")
    return config.replace(catalog_artefact=artefact.about.digest), artefact


@pytest.fixture
def offer(made: tuple[RunConfig, Any], tmp_path: Path) -> Offer:
    found = Offer.of(made[0], Catalog.read(tmp_path / "server" / "catalog.tsv"))
    assert found is not None
    assert found.offered.pieces > 3
    return found


@pytest.fixture
def at(
    made: tuple[RunConfig, Any], offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    return Machine(tmp_path, made[0], offer.offered)


def fetch_all(at: Machine, piece: Callable[[int], Piece]) -> int:
    """Until the node wants none; how many pieces it was sent."""
    wanted, sent = at.answer(), 0
    while wanted.wanted:
        wanted, sent = at.answer(piece(wanted.piece)), sent + 1
    return sent


# ---------------------------------------------------------------- the way it should be
def test_all_pieces_make_the_file_and_views_use_it(
    at: Machine, offer: Offer, made: tuple[RunConfig, CatalogArtefact], tmp_path: Path
) -> None:
    assert fetch_all(at, offer.piece) == offer.offered.pieces
    file = f"fetched-{at.config.catalog_artefact}.safetensors"
    assert file in at.files()
    assert (at.cache / file).read_bytes() == (
        tmp_path / "server" / "catalog.safetensors"
    ).read_bytes()
    assert not list(at.cache.glob(".*.part"))
    by_file, _ = view_factory(at.config, at.node, at.catalog)
    assert by_file.startswith(BY_CONTENT)
    for key in ("use_catalog_artefact", "fetch_catalog_artefact"):
        node = at.node.model_copy(update={key: False})
        assert view_factory(at.config, node, at.catalog)[0] != by_file
    assert at.answer() == NOTHING, "it has it"


def test_an_interruption_costs_no_piece_that_has_come(at: Machine, offer: Offer) -> None:
    at.answer()
    at.answer(offer.piece(0))
    at.answer(offer.piece(1))
    [part] = at.cache.glob(".*.part")
    with part.open("ab") as file:  # killed in the middle of the third
        file.write(offer.piece(2).content[:77])
    assert at.answer() == Wanted(True, 2)
    for number in range(2, offer.offered.pieces):
        last = at.answer(offer.piece(number))
    assert last == NOTHING
    assert len(list(at.cache.glob("fetched-*.safetensors"))) == 1


def test_another_piece_than_the_expected_one_is_not_taken(at: Machine, offer: Offer) -> None:
    at.answer()
    assert at.answer(offer.piece(2)) == Wanted(True, 0)
    assert at.answer(offer.piece(0)) == Wanted(True, 1)
    assert at.answer(offer.piece(0)) == Wanted(True, 1), "of another node with the same cache"


# ---------------------------------------------------------------- nothing is wanted
@pytest.mark.parametrize(
    "change",
    [
        lambda at: setattr(at, "node", at.node.model_copy(update={"use_catalog_artefact": False})),
        lambda at: setattr(
            at, "node", at.node.model_copy(update={"fetch_catalog_artefact": False})
        ),
        lambda at: setattr(at, "offered", at.offered._replace(model="another")),
        lambda at: setattr(at, "offered", at.offered._replace(recipe="another")),
        lambda at: setattr(at, "config", at.config.replace(views="tfidf")),
        lambda at: setattr(at, "config", at.config.replace(catalog_artefact="")),
        lambda at: at.catalog.path.with_name("catalog.safetensors").write_bytes(b"the owner's"),
    ],
)
def test_who_does_not_need_it_wants_nothing(at: Machine, offer: Offer, change: Any) -> None:
    change(at)
    assert at.answer() == NOTHING
    assert at.answer(offer.piece(0)) == NOTHING
    assert at.files() == []


# ---------------------------------------------------------------- a server that lies
def refused(at: Machine, text: str, act: Callable[[], object]) -> None:
    with pytest.raises(
        ArtefactError, match=f"{at.config.catalog_artefact} of the server: .*{text}"
    ):
        act()
    assert at.files() == [f"refused-{at.config.catalog_artefact}"]
    assert at.answer() == NOTHING, "not a second time"
    assert chosen(at) is None


def chosen(at: Machine) -> Any:
    model = model_fingerprint(llm_config(at.config))
    file = at.cache / f"fetched-{at.config.catalog_artefact}.safetensors"
    return chosen_artefact(at.config, at.catalog, model, at.config.llm_noun, file)


@pytest.mark.parametrize("size", [most_bytes(len(TITLES)) + 1, MAX_BYTES, 0])
def test_a_size_beyond_the_limit_is_refused_before_anything_is_accepted(
    at: Machine, size: int
) -> None:
    refused(at, f"{size:,} bytes offered.*at most", lambda: at.answer(size=size))


@pytest.mark.parametrize("content", [b"", b"x" * (PIECE - 1), b"x" * (PIECE + 1)])
def test_a_piece_of_another_size_is_refused(at: Machine, content: bytes) -> None:
    at.answer()
    refused(at, f"a piece of {len(content):,} bytes", lambda: at.answer(Piece(0, content)))


def test_a_changed_byte_is_refused(at: Machine, offer: Offer) -> None:
    def piece(number: int) -> Piece:
        content = bytearray(offer.piece(number).content)
        content[-1] ^= 1
        return Piece(number, bytes(content))

    refused(at, "catalog artefact refused: found", lambda: fetch_all(at, piece))


def test_bytes_that_are_no_artefact_are_refused(at: Machine, offer: Offer) -> None:
    def piece(number: int) -> Piece:
        return Piece(number, b"\xff" * offer.offered.size_of(number))

    refused(at, "no header", lambda: fetch_all(at, piece))


def lying(
    made: tuple[RunConfig, CatalogArtefact], at: Machine, tmp_path: Path
) -> tuple[Offer, CatalogArtefact]:
    """An artefact whose digests are right, and whose vectors are not."""
    config, artefact = made
    rows = artefact.rows._replace(meaning=np.roll(artefact.rows.meaning, 1, axis=0))
    keys = (key.tobytes() for key in artefact.keys)
    lie = CatalogArtefact.sealed(artefact.about, artefact.basis, keys, rows)
    lie.write(tmp_path / "server" / "catalog.safetensors")
    at.config = config.replace(catalog_artefact=lie.about.digest)
    catalog = Catalog.read(tmp_path / "server" / "catalog.tsv")
    offer = Offer.of(at.config, catalog)
    assert offer is not None
    at.offered = offer.offered
    return offer, lie


def test_a_file_that_the_run_names_and_that_lies_is_refused(
    at: Machine, made: tuple[RunConfig, CatalogArtefact], tmp_path: Path
) -> None:
    offer, _ = lying(made, at, tmp_path)
    refused(at, "found for the title", lambda: fetch_all(at, offer.piece))


def test_another_artefact_than_the_run_names_is_refused(
    at: Machine, offer: Offer, made: tuple[RunConfig, CatalogArtefact], tmp_path: Path
) -> None:
    other, lie = lying(made, at, tmp_path)
    at.config = made[0]  # the run names the honest one
    refused(at, f"the digest {lie.about.digest}", lambda: fetch_all(at, other.piece))


# ---------------------------------------------------------------- at the server
def test_a_server_offers_only_what_the_run_names(
    made: tuple[RunConfig, CatalogArtefact], tmp_path: Path
) -> None:
    config, _ = made
    catalog = Catalog.read(tmp_path / "server" / "catalog.tsv")
    assert Offer.of(config.replace(catalog_artefact=""), catalog) is None
    assert Offer.of(config.replace(views="tfidf"), catalog) is None
    with pytest.raises(ArtefactError, match="catalog-artefact"):
        Offer.of(config.replace(catalog_artefact="0" * 64), catalog)


def test_what_is_offered_stays_when_the_file_is_replaced(offer: Offer, tmp_path: Path) -> None:
    before = offer.piece(1)
    path = tmp_path / "server" / "catalog.safetensors"
    (tmp_path / "new").write_bytes(b"new" * PIECE)
    (tmp_path / "new").replace(path)
    assert offer.piece(1) == before
