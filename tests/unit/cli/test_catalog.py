"""``lumos catalog``: a file for all machines, extended by what is new, shown after checks."""

import re
from pathlib import Path

import pytest
from tiny_llm import save_tiny_llm
from typer.testing import CliRunner

from lumos_core.cli.app import app
from lumos_core.data.catalog import Catalog
from lumos_core.data.catalog_versions import Lineage
from lumos_core.errors import ArtefactError, ConfigError, DataError
from lumos_core.views.titles.catalog_artefact import CatalogArtefact

TITLES = tuple(f"thing number {n} of {'paper' if n % 2 else 'tin'}" for n in range(12))


def lumos(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["catalog", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUMOS_CACHE", str(tmp_path / "cache"))
    return save_tiny_llm(tmp_path / "model")


def catalog(path: Path, titles: tuple[str, ...]) -> Path:
    Catalog(tuple(f"i{n}" for n in range(len(titles))), titles).write(path)
    return path


def tokens(output: str) -> int:
    (found,) = re.findall(r"([\d,]+) tokens read", " ".join(output.split()))
    return int(found.replace(",", ""))


def test_build_extend_show(model: Path, tmp_path: Path) -> None:
    few = catalog(tmp_path / "catalog.tsv", TITLES[:10])
    all_ = catalog(tmp_path / "grown.tsv", TITLES)
    out, grown = tmp_path / "new" / "catalog.safetensors", tmp_path / "grown.safetensors"
    built = lumos("build", few, "--out", out, "--llm", model, "-c", "llm-noun=odds and ends")
    assert "10 titles" in built
    made = CatalogArtefact.read(out)
    assert made.about.digest in built
    assert made.about.noun == "odds and ends"
    extended = lumos("extend", out, all_, "--out", grown, "--llm", model)
    assert "2 titles added, 12 in all" in extended
    assert 0 < tokens(extended) < tokens(built) / 2
    shown = lumos("show", grown)
    assert CatalogArtefact.read(grown).about.digest in shown
    assert "12, " in shown
    assert made.about.basis[:16] in shown
    assert "of 10 titles" in shown


def test_extending_by_nothing_reads_nothing(model: Path, tmp_path: Path) -> None:
    here = catalog(tmp_path / "catalog.tsv", TITLES)
    out = tmp_path / "catalog.safetensors"
    lumos("build", here, "--out", out, "--llm", model)
    before = out.read_bytes()
    assert "no title is new" in lumos("extend", out, here, "--out", out, "--llm", model)
    assert out.read_bytes() == before


def test_another_model_cannot_extend(model: Path, tmp_path: Path) -> None:
    here = catalog(tmp_path / "catalog.tsv", TITLES[:5])
    out = tmp_path / "catalog.safetensors"
    lumos("build", here, "--out", out, "--llm", model)
    other = save_tiny_llm(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match=r"catalog\.safetensors: was made by .*--llm"):
        lumos("extend", out, catalog(tmp_path / "g.tsv", TITLES), "--out", out, "--llm", other)


def test_what_was_tampered_with_is_not_shown(model: Path, tmp_path: Path) -> None:
    here = catalog(tmp_path / "catalog.tsv", TITLES[:5])
    out = tmp_path / "catalog.safetensors"
    lumos("build", here, "--out", out, "--llm", model)
    content = bytearray(out.read_bytes())
    content[-1] ^= 1
    out.write_bytes(content)
    with pytest.raises(ArtefactError, match=r"catalog\.safetensors: catalog artefact refused"):
        lumos("show", out)


def test_the_next_version_of_a_catalog(tmp_path: Path) -> None:
    """It is written in place, lists what was corrected, and refuses what renumbers."""
    here = catalog(tmp_path / "catalog.tsv", TITLES[:10])
    new = catalog(tmp_path / "new.tsv", ("thing number 0", *TITLES[1:]))
    told = " ".join(lumos("extend", here, new, "--out", here).split())
    assert f"corrected i0: '{TITLES[0]}' is now 'thing number 0'" in told
    assert "version 2, 12 items: 2 added, 1 titles corrected" in told
    assert here.read_bytes() == new.read_bytes()
    chain = Lineage.of(Catalog.read(here))
    assert [version.items for version in chain.versions] == [10, 12]
    assert "version 2, 12 items: 0 added" in " ".join(
        lumos("extend", here, new, "--out", here).split()
    )
    Catalog(("i1", "i0"), ("a", "b")).write(new)
    with pytest.raises(DataError, match="item 'i0' is number 2, expected 1"):
        lumos("extend", here, new, "--out", here)
    with pytest.raises(ConfigError, match=r"expected a file called catalog\.tsv"):
        lumos("extend", here, here, "--out", tmp_path / "other.tsv")
    with pytest.raises(DataError, match="missing"):
        lumos("extend", tmp_path / "missing.tsv", here, "--out", here)
