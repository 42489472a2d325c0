"""The control writers keep the contract of a view for any catalog and history."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lumos_core.views.view import UserViews, ViewWriter
from lumos_core.views.writers.controls import RandomViewWriter, TfidfViewWriter
from lumos_core.views.writers.view_settings import ViewSettings

titles = st.lists(st.text(max_size=12), min_size=1, max_size=12)


def check(views: UserViews, history: list[int], items: int, future: int, recent: int) -> None:
    length = min(recent, len(history))
    assert all(1 <= item <= items for view in views for item in view)
    assert len(views.paraphrase) == len(views.counterfactual) == length
    assert len(views.future) <= future


@settings(max_examples=40, deadline=None)
@given(data=st.data(), titles=titles, future=st.integers(1, 6), recent=st.integers(1, 6))
def test_views_are_catalog_items_of_the_right_length(
    data: st.DataObject, titles: list[str], future: int, recent: int
) -> None:
    items = len(titles)
    history = st.lists(st.integers(1, items), min_size=1, max_size=10)
    histories = data.draw(st.lists(history, min_size=1, max_size=4))
    options = ViewSettings(future_items=future, recent=recent, seed=3)
    writers: list[ViewWriter] = [
        TfidfViewWriter(titles, "c", options),
        RandomViewWriter(items, "c", options),
    ]
    for writer in writers:
        views = writer.write(histories)
        for one, history in zip(views, histories, strict=True):
            check(one, history, items, future, recent)
        assert writer.write(histories) == views
        assert [writer.write([history])[0] for history in histories] == views  # no batch effect


def test_tfidf_finds_the_obvious() -> None:
    titles = ["red pen", "red pen set", "blue pen", "desk lamp", "floor lamp", "garden hose"]
    writer = TfidfViewWriter(titles, "c", ViewSettings(future_items=2, recent=3))
    (pens,) = writer.write([[1]])
    assert pens.paraphrase == (2,)
    assert pens.future == (2, 3)
    assert set(pens.counterfactual) <= {4, 5, 6}
    (lamps,) = writer.write([[4]])
    assert lamps.paraphrase == (5,)


def test_future_is_new_and_counterfactual_is_not_the_history() -> None:
    titles = [f"thing number {i}" for i in range(20)]
    for writer in (TfidfViewWriter(titles, "c", ViewSettings(future_items=5)),):
        (views,) = writer.write([[1, 2, 3]])
        assert len(views.future) == 5
        assert not set(views.future) & {1, 2, 3}
        assert not set(views.counterfactual) & {1, 2, 3}
        assert not set(views.paraphrase) & {1, 2, 3}
        assert len(set(views.paraphrase)) == 3


def test_fingerprints_tell_settings_apart() -> None:
    base = ViewSettings()
    prints = {
        TfidfViewWriter(["a", "b"], "c", base).fingerprint,
        TfidfViewWriter(["a", "b"], "d", base).fingerprint,
        TfidfViewWriter(["a", "b"], "c", base._replace(seed=1)).fingerprint,
        TfidfViewWriter(["a", "b"], "c", base._replace(future_items=3)).fingerprint,
        TfidfViewWriter(["a", "b"], "c", base._replace(recent=3)).fingerprint,
        RandomViewWriter(2, "c", base).fingerprint,
    }
    assert len(prints) == 6
