"""Published data sets that may not be copied into the project: tested where they are at hand."""

import os
from pathlib import Path

import pytest

from lumos_core.data.prepare import prepare
from lumos_core.data.prepared_folder import load_prepared

DATA = Path(os.environ.get("LUMOS_DATA") or Path(__file__).parents[4] / "shared" / "data")


def published(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {DATA / name}; set LUMOS_DATA to the folder with the published data sets")
    return DATA / name


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [
        ("uci_online_retail_tiny", 708, 1_482, 23_190),
        ("uci_online_retail", 4_074, 3_145, 264_510),
        ("amazon2014_office", 4_905, 2_420, 53_258),
        ("amazon2014_beauty", 22_363, 12_101, 198_502),
        ("amazon2014_cell_phones", 27_879, 10_429, 194_439),
        ("mind_small_5k", 3_870, 5_570, 118_000),
    ],
)
def test_published_counts(
    tmp_path: Path, name: str, users: int, items: int, interactions: int
) -> None:
    """Five-core sets stay as published; the filtered MIND has what others report, about."""
    dataset = prepare(published(name), tmp_path / "out")
    about = 0.02 if name.startswith("mind") else 0
    assert dataset.users == pytest.approx(users, rel=about)
    assert dataset.items == pytest.approx(items, rel=about)
    assert dataset.interactions == pytest.approx(interactions, rel=about)
    assert dataset.lengths[0] >= 5
    catalog, parts = load_prepared(tmp_path / "out")
    assert len(catalog) == dataset.items
    assert sum(len(part) for part in parts) == dataset.users
    assert sum(len(part.items) for part in parts) == dataset.interactions


def test_published_mind_files(tmp_path: Path) -> None:
    source = published("mind_raw_sample")
    histories = prepare(source, tmp_path / "a", k_core=0)
    assert histories.interactions > 60_000
    assert "have no title" in histories.warnings[0]
    titled = prepare(source, tmp_path / "b", k_core=0, unknown_items="drop")
    assert not titled.warnings
    assert titled.items <= 2_000
    with_clicks = prepare(source, tmp_path / "c", k_core=0, impression_clicks=True)
    assert with_clicks.interactions > histories.interactions + 1_000
