from lumos_core.runs.troubles import SHOWN, left_out, troubles_of

LATE = "no reply before the deadline"


def failure(round_: int, node: str, reason: str = LATE) -> dict[str, object]:
    return {"round": round_, "node": node, "reason": reason}


def test_the_same_trouble_is_told_once_with_its_rounds() -> None:
    [found] = troubles_of([failure(n, "node-2") for n in (9, 4, 6)])
    assert found.sentence() == f"node-2 failed 3 times, in rounds 4, 6 and 9: {LATE}."
    assert "round-timeout" in found.advice()
    [often] = troubles_of([failure(n, "node-2") for n in range(3, 30)])
    assert often.sentence() == f"node-2 failed 27 times, in rounds 3 to 29: {LATE}."


def test_rounds_that_failed_come_first_then_the_most_frequent() -> None:
    found = troubles_of(
        [failure(1, "a"), failure(1, "b"), failure(2, "b"), failure(3, "", "1 valid replies of 2")]
    )
    assert [t.node for t in found] == ["", "b", "a"]
    assert found[0].sentence() == "a round failed in round 3: 1 valid replies of 2."
    assert found[2].sentence() == f"a failed in round 1: {LATE}."


def test_one_round_that_failed_twice() -> None:
    [found] = troubles_of([failure(3, "", "x"), failure(3, "", "x")])
    assert found.sentence() == "2 rounds failed 2 times, in round 3: x."


def test_those_that_are_not_told_are_counted() -> None:
    many = troubles_of([failure(1, f"node-{n}") for n in range(SHOWN + 1500)])
    assert left_out(many) == "And 1,500 more; history.jsonl has them all."
    assert left_out(many[:SHOWN]) == ""
