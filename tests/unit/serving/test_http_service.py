"""The service answers what the model ranks, and says what is wrong with a request."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_support import ITEMS, USERS, expected, keep, write_node

from lumos_core.logs import TextLines
from lumos_core.serving.access_token import Access
from lumos_core.serving.http_service import MOST_ITEMS, MOST_RECOMMENDED, http_service
from lumos_core.serving.newest_model import Newest
from lumos_core.serving.request_guard import Limits

TOKEN = "0123456789abcdef"
Ask = Callable[..., httpx.Response]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_node(tmp_path / "node")


@pytest.fixture
def newest(folder: Path) -> Newest:
    keep(folder, seed=1)
    return Newest(folder, folder / "state")


def asking(newest: Newest, access: Access | None = None, limits: Limits | None = None) -> Ask:
    """``ask("GET", "/health")``: one request to a service."""
    service = http_service(newest, access or Access("127.0.0.1"), limits=limits)

    def ask(method: str, path: str, **rest: Any) -> httpx.Response:
        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(service)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as to:
                return await to.request(method, path, **rest)

        return asyncio.run(one())

    return ask


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [found["item_id"] for found in answer.json()["recommendations"]]


def test_a_user_gets_what_the_model_ranks(folder: Path, newest: Newest) -> None:
    ask, path = asking(newest), keep(folder, seed=1)
    for user, items in USERS.items():
        answer = ask("GET", "/recommend", params={"user": user})
        assert ids(answer) == expected(path, items)
    first = answer.json()["recommendations"][0]
    assert first.keys() == {"rank", "item_id", "title", "score", "reasons"}
    assert first["rank"] == 1
    assert all(reason["item_id"] == "i5" for reason in first["reasons"])
    assert newest.served.version is not None
    model = answer.json()["model"]
    assert (model["digest"], model["round"]) == (newest.served.version.digest, 1)


@pytest.mark.parametrize("k", [1, 5, ITEMS, MOST_RECOMMENDED])
def test_k_says_how_many(folder: Path, newest: Newest, k: int) -> None:
    ask, path = asking(newest), keep(folder, seed=1)
    assert ids(ask("GET", "/recommend", params={"user": "u3", "k": k})) == expected(path, [5], k)
    answer = ask("POST", "/recommend", json={"items": ["i9", "i9"], "k": k})
    assert ids(answer) == expected(path, [9, 9], k)


def test_a_session_and_a_user_in_the_body(folder: Path, newest: Newest) -> None:
    ask, path = asking(newest), keep(folder, seed=1)
    long = [f"i{n % ITEMS + 1}" for n in range(0, 2 * MOST_ITEMS, 2)]
    answer = ask("POST", "/recommend", json={"items": long})
    assert ids(answer) == expected(path, [int(item[1:]) for item in long])
    answer = ask("POST", "/recommend", json={"user": "Ann&Søn", "k": 3})
    assert ids(answer) == expected(path, USERS["Ann&Søn"], 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "expected either items"),
        ({"items": ["i1"], "user": "u3"}, "expected either items"),
        ({"items": []}, "items: List should have at least 1 item"),
        ({"items": ["i1"] * (MOST_ITEMS + 1)}, "items: List should have at most 1000 items"),
        ({"items": "i1"}, "items: should be a valid list"),
        ({"items": [1]}, "items.0: should be a valid string"),
        ({"items": ["i" * 300]}, "items.0: String should have at most 256"),
        ({"items": ["i1", "x7", "x8"]}, "items: 'x7' and 1 more not in the catalog of 24 items"),
        ({"items": ["i1"], "k": 0}, "k: should be greater than or equal to 1"),
        ({"items": ["i1"], "k": 101}, "k: should be less than or equal to 100"),
        ({"items": ["i1"], "k": "3"}, "k: should be a valid integer"),
        ({"items": ["i1"], "n": 3}, "n: Extra inputs are not permitted"),
        (["i1"], "the body is not a JSON object"),
        (None, "the body: is missing"),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(newest: Newest, body: Any, reason: str) -> None:
    answer = asking(newest)("POST", "/recommend", json=body)
    assert answer.status_code == 422
    assert answer.json().keys() == {"error"}
    assert reason in answer.json()["error"]
    assert "catalog.tsv" in answer.json()["error"] or '{"items": [' in answer.json()["error"]


def test_a_body_must_be_json_and_say_so(newest: Newest) -> None:
    ask = asking(newest)
    good = b'{"items": ["i1"]}'
    json = {"content-type": "application/json"}
    assert ask("POST", "/recommend", content=good, headers=json).status_code == 200
    for headers in ({"content-type": "text/plain"}, {}):  # what a form of a web page can send
        answer = ask("POST", "/recommend", content=good, headers=headers)
        assert answer.status_code == 422
    for broken in (b'{"items": ["i1"]', b"\xff\xfe", b"[" * 50_000):
        answer = ask("POST", "/recommend", content=broken, headers=json)
        assert 400 <= answer.status_code < 500
        assert answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/recommend", 422, "user: is missing"),
        ("/recommend?user=", 422, "user: String should have at least 1"),
        ("/recommend?user=u3&k=x", 422, "k: should be a valid integer"),
        ("/recommend?user=u3&k=1000", 422, "k: should be less than or equal to 100"),
        ("/recommend?user=nobody", 404, "no interaction of this user"),
        ("/other", 404, "no such path"),
        ("/docs", 404, "no such path"),
    ],
)
def test_a_wrong_address_is_told_what_is_wrong(
    newest: Newest, path: str, status: int, reason: str
) -> None:
    answer = asking(newest)("GET", path)
    assert answer.status_code == status
    assert reason in answer.json()["error"]
    assert "/recommend" in answer.json()["error"] or "POST" in answer.json()["error"]


def test_other_methods_are_refused(newest: Newest) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        answer = asking(newest)(method, "/recommend")
        assert answer.status_code == 405
        assert "does not have this method" in answer.json()["error"]


def test_without_a_model_there_is_503(folder: Path) -> None:
    ask = asking(Newest(folder, folder / "state"))
    assert ask("GET", "/health").status_code == 503
    answer = ask("GET", "/recommend?user=u3")
    assert answer.status_code == 503
    assert "no model yet" in answer.json()["error"]
    assert answer.headers["retry-after"] == "10"
    assert ask("GET", "/metrics").status_code == 200


def test_health_says_which_model(newest: Newest) -> None:
    answer = asking(newest)("GET", "/health").json()
    assert (answer["status"], answer["model"]["round"]) == ("ok", 1)


def test_a_token_is_needed_for_everything_but_health(newest: Newest) -> None:
    ask = asking(newest, Access("0.0.0.0", TOKEN))
    assert ask("GET", "/health").status_code == 200
    for path in ("/recommend?user=u3", "/metrics", "/openapi.json", "/other"):
        refused = ask("GET", path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in refused.json()["error"]
        told = {"Authorization": f"Bearer {TOKEN}"}
        assert ask("GET", path, headers=told).status_code != 401
    assert ask("GET", "/recommend?user=u3", headers=told).status_code == 200


def test_a_web_page_of_another_name_is_refused(newest: Newest) -> None:
    answer = asking(newest)("GET", "/recommend?user=u3", headers={"Host": "evil.example"})
    assert answer.status_code == 403


def test_metrics_count_and_name_nobody(folder: Path, newest: Newest) -> None:
    ask = asking(newest)
    for path in ("/recommend?user=Ann%26S%C3%B8n", "/recommend?user=secret-user-8", "/u3/secret"):
        ask("GET", path)
    ask("POST", "/recommend", json={"items": ["i17"]})
    text = ask("GET", "/metrics").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]

    def value(name: str) -> float:
        return float(next(line for line in lines if line.startswith(name)).split()[-1])

    of = "lumos_serve_requests_total"
    assert value(f'{of}{{method="GET",path="/recommend",status="200"}}') == 1
    assert value(f'{of}{{method="GET",path="/recommend",status="404"}}') == 1
    assert value(f'{of}{{method="POST",path="/recommend",status="200"}}') == 1
    assert value(f'{of}{{method="GET",path="other",status="404"}}') == 1
    assert value('lumos_serve_request_seconds_count{path="/recommend"}') == 3
    assert value("lumos_serve_model_round") == 1
    assert 0 <= value("lumos_serve_model_age_seconds") < 3600
    assert value("lumos_serve_models_loaded") == 1
    assert newest.served.version is not None
    assert f'digest="{newest.served.version.digest}"' in text
    assert not any(name in text for name in ("secret", "Ann", "u3", "i17"))


def test_an_error_of_lumos_is_not_quoted(newest: Newest, monkeypatch, caplog) -> None:
    def broken(*args: object, **rest: object) -> None:
        raise RuntimeError("secret-user-7 bought i17")

    monkeypatch.setattr(newest.served.recommender, "for_user", broken)
    answer = asking(newest)("GET", "/recommend?user=secret-user-7")
    assert answer.status_code == 500
    assert answer.json() == {"error": "an error of LUMOS (RuntimeError); the service goes on"}
    lines = [TextLines().format(r) for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(lines) == 1
    assert "error=RuntimeError" in lines[0]
    assert "secret" not in lines[0]


def test_an_answer_is_of_one_model_whatever_happens_meanwhile(folder: Path, newest: Newest) -> None:
    """Requests and swaps at the same time: each answer is exactly that of the model it names."""
    lists = {seed: expected(keep(folder, seed), [5]) for seed in (1, 2, 3, 4)}
    service = http_service(newest, Access("127.0.0.1"), threads=2)
    seen: set[int] = set()

    async def ask(to: httpx.AsyncClient) -> None:
        for _ in range(30):
            answer = await to.get("/recommend?user=u3")
            model = answer.json()["model"]["round"]
            assert ids(answer) == lists[model]
            seen.add(model)

    async def swap() -> None:
        for seed in (2, 3, 4):
            keep(folder, seed)
            await asyncio.to_thread(newest.look)
            await asyncio.to_thread(newest.look)
            await asyncio.sleep(0.02)

    async def both() -> None:
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as to:
            await asyncio.gather(ask(to), ask(to), ask(to), swap())

    asyncio.run(both())
    assert len(set(map(tuple, lists.values()))) == 4
    assert len(seen) > 1
    assert newest.served.version is not None
    assert newest.served.version.card.round == 4
