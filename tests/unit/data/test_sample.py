from lumos_core.data.sample import bundled_sample, is_of_bundled_user


def test_only_histories_of_the_sample_are_recognised() -> None:
    rows = (bundled_sample() / "interactions.tsv").read_text("utf-8").splitlines()[1:]
    first, *others = [row.split("\t")[:2] for row in rows]
    user, item = first
    foreign = next(i for u, i in others if u != user and [user, i] not in others)
    assert is_of_bundled_user(user, [item])
    assert not is_of_bundled_user(user, [item, foreign])
    assert not is_of_bundled_user("nobody", [item])
