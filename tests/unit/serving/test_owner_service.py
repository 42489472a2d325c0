"""The page for a node's owner: what it says, what its forms do, and who may send them."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_support import CATALOG, keep, write_node

from lumos_core.config import NodeConfig
from lumos_core.errors import FederationError
from lumos_core.federation.owner_floor import REFUSED, Refusal
from lumos_core.federation.owner_pause import PAUSED, Pause, pause
from lumos_core.privacy.ledger_file import FILE, FORGOTTEN, write_line
from lumos_core.serving.access_token import Access
from lumos_core.serving.http_service import http_service
from lumos_core.serving.newest_model import Newest
from lumos_core.serving.owner_service import Owner

TOKEN = "0123456789abcdef"
Ask = Callable[..., httpx.Response]
PRIVACY = {"dp": "none", "noise": 0.0, "public_noise": False, "secure_aggregation": False}


@dataclass
class Plan:
    removed: tuple[tuple[str, str], ...] = (("data", "2 rows are <b>removed</b>"),)
    remains: tuple[str, ...] = ("The federation's model stays.",)


@dataclass
class FakeForget:
    refuses: str = ""
    asked: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def plan(self, user: str) -> Plan:
        if self.refuses:
            raise FederationError(self.refuses)
        self.asked.append(user)
        return Plan()

    def carry_out(self, user: str) -> str:
        if self.refuses:
            raise FederationError(self.refuses)
        self.done.append(user)
        return "The user is forgotten."


@dataclass
class Desk:
    """A node's owner with a browser."""

    folder: Path
    owner: Owner
    forget: FakeForget
    access: Access = field(default_factory=lambda: Access("127.0.0.1"))

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def ask(self, method: str, path: str, **rest: Any) -> httpx.Response:
        service = http_service(self.owner.newest, self.access, owner=self.owner)

        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(service)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as to:
                return await to.request(method, path, **rest)

        return asyncio.run(one())

    def page(self) -> str:
        answer = self.ask("GET", "/")
        assert answer.status_code == 200, answer.text
        return answer.text

    def send(self, path: str, **fields: str) -> httpx.Response:
        return self.ask("POST", path, data={"proof": self.owner.proof, **fields})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    folder = write_node(tmp_path / "node")
    keep(folder, seed=1)
    node = NodeConfig(data=str(folder), state=str(folder / "state"), name="node-7")
    forget = FakeForget()
    return Desk(folder, Owner(node, Newest(folder, folder / "state"), forget), forget)


def ledger_line(state: Path, **facts: Any) -> None:
    records = [{"record": "delta", "bytes": 5_000}]
    write_line(state, {"run": "1", "run_key": "abc", "round": 3, "message": "train",
                       "records": records, "privacy": PRIVACY, **facts})  # fmt: skip


# ---------------------------------------------------------------- what it says
def test_an_empty_ledger_says_that_nothing_has_left(desk: Desk) -> None:
    text = desk.page()
    assert "Node node-7" in text
    assert "Nothing has left this machine so far." in text
    assert "this node has not answered any server yet" in text
    assert "dp must be" in text, "the owner's limits"


def test_what_left_is_told_run_by_run(desk: Desk) -> None:
    ledger_line(desk.state)
    ledger_line(desk.state, round=4)
    write_line(desk.state, {"run": "", "message": FORGOTTEN, "records": [], "users": 2,
                            "interactions": 9})  # fmt: skip
    text = desk.page()
    assert "1 run got 2 model deltas from this machine" in text
    assert "rounds 3 to 4" in text
    assert "10,000" in text
    assert "no secure aggregation: the server saw each delta" in text
    assert "2 users with 9 interactions" in text


def test_examples_have_titles_and_reasons_but_no_user(desk: Desk) -> None:
    text = desk.page()
    assert text.count("what comes first") == 3
    assert "because of" in text
    assert "toy number 4" in text
    assert not any(user in text for user in ("secret-user-7", "Ann&amp;Søn", "Ann&Søn"))


def test_without_a_model_it_says_when_there_will_be_one(desk: Desk) -> None:
    for file in (desk.state / "model").glob("*"):
        file.unlink()
    newest = Newest(desk.folder, desk.state)
    desk.owner = Owner(desk.owner.node, newest, desk.forget)
    assert "the node keeps one after its first round of training" in desk.page()


def test_a_damaged_ledger_is_named_and_the_page_goes_on(desk: Desk) -> None:
    ledger_line(desk.state)
    with (desk.state / FILE).open("a") as file:
        file.write("not json\n")
    text = desk.page()
    assert "its ledger is damaged" in text
    assert "line 2: found" in text
    assert "restore the file from a copy" in text
    assert "what comes first" in text


def test_the_last_refusal_is_there(desk: Desk) -> None:
    Refusal(time=1.7e9, sentences=("refused: the run asks for <i>dp</i>",)).write(
        desk.state / REFUSED
    )
    text = desk.page()
    assert "refused: the run asks for &lt;i&gt;dp&lt;/i&gt;" in text
    assert "The last refusal, 2023-11-14" in text


def test_hostile_titles_stay_text(desk: Desk) -> None:
    titles = ("<script>alert(1)</script>", *CATALOG.titles[1:])
    (desk.folder / "catalog.tsv").write_text(
        "item_id\ttitle\n" + "".join(f"{i}\t{t}\n" for i, t in zip(CATALOG.item_ids, titles,
                                                                   strict=True))
    )  # fmt: skip
    for file in (desk.state / "model").glob("*"):
        file.unlink()
    from lumos_core.data import Catalog

    keep(desk.folder, seed=1, catalog=Catalog.read(desk.folder / "catalog.tsv"))
    newest = Newest(desk.folder, desk.state)
    desk.owner = Owner(desk.owner.node, newest, desk.forget)
    text = desk.page()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


# ---------------------------------------------------------------- what its forms do
def test_pause_and_resume(desk: Desk) -> None:
    answer = desk.send("/pause")
    assert answer.status_code == 200
    assert "This node is paused." in answer.text
    assert Pause.of_node(desk.state) is not None
    assert "This node is paused: nothing leaves it." in desk.page()
    assert 'action="/resume"' in desk.page()
    assert "This node takes part again." in desk.send("/resume").text
    assert not (desk.state / PAUSED).exists()
    assert "was not paused" in desk.send("/resume").text


def test_a_user_is_forgotten_after_a_look_and_a_confirmation(desk: Desk) -> None:
    shown = desk.send("/forget", user=" Ann&Søn ")
    assert shown.status_code == 200
    assert desk.forget.asked == ["Ann&Søn"]
    assert desk.forget.done == []
    assert "2 rows are &lt;b&gt;removed&lt;/b&gt;" in shown.text
    assert "model stays." in shown.text
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', shown.text))
    assert hidden["user"] == "Ann&amp;Søn"
    done = desk.send("/forget", user="Ann&Søn", sure=hidden["sure"])
    assert desk.forget.done == ["Ann&Søn"]
    assert "The user is forgotten." in done.text
    assert "Ann" not in done.text


def test_what_cannot_be_done_is_told_with_its_reason(desk: Desk) -> None:
    desk.forget.refuses = "this node is running; end 'lumos node start' first"
    answer = desk.send("/forget", user="u3")
    assert answer.status_code == 409
    assert "this node is running; end &#39;lumos node start&#39; first" in answer.text
    assert "Nothing was changed." in answer.text


@pytest.mark.parametrize("user", ["", "  ", "x" * 257])
def test_no_id_is_refused(desk: Desk, user: str) -> None:
    answer = desk.send("/forget", user=user)
    assert answer.status_code == 422
    assert desk.forget.asked == []


# ---------------------------------------------------------------- who may send them
@pytest.mark.parametrize("path", ["/pause", "/forget"])
def test_a_form_without_the_proof_changes_nothing(desk: Desk, path: str) -> None:
    for data in ({}, {"proof": "guess"}, {"proof": desk.owner.proof[:-1]}):
        answer = desk.ask("POST", path, data={**data, "user": "u3", "sure": "yes"})
        assert answer.status_code == 403
        assert "open the page again" in answer.text
    assert not (desk.state / PAUSED).exists()
    assert desk.forget.done == []


def test_a_form_of_another_page_changes_nothing(desk: Desk) -> None:
    for origin in ("https://evil.example", "http://127.0.0.1:9999", "null"):
        answer = desk.ask("POST", "/pause", data={"proof": desk.owner.proof},
                          headers={"Origin": origin})  # fmt: skip
        assert answer.status_code == 403
    assert not (desk.state / PAUSED).exists()
    own = {"Origin": "http://127.0.0.1"}
    assert desk.ask("POST", "/pause", data={"proof": desk.owner.proof}, headers=own).is_success


def test_nothing_is_changed_by_get_and_another_name_is_refused(desk: Desk) -> None:
    assert desk.ask("GET", "/pause").status_code == 405
    assert desk.ask("GET", "/", headers={"Host": "evil.example"}).status_code == 403
    assert not (desk.state / PAUSED).exists()


def test_the_policy_allows_no_script_and_forms_to_itself_only(desk: Desk) -> None:
    answer = desk.ask("GET", "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert "<script" not in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_with_a_token_a_browser_gets_a_cookie_for_it(desk: Desk) -> None:
    desk.access = Access("0.0.0.0", TOKEN)
    assert desk.ask("GET", "/").status_code == 401
    assert desk.ask("GET", "/", params={"token": "wrong"}).status_code == 401
    assert desk.ask("POST", "/pause", params={"token": TOKEN}).status_code == 401
    answer = desk.ask("GET", "/", params={"token": TOKEN})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    given = {"Cookie": cookie.partition(";")[0]}
    assert "Node node-7" in desk.ask("GET", "/", headers=given).text
    assert desk.ask("GET", "/", headers={"Cookie": "lumos-serve=wrong"}).status_code == 401
    assert desk.ask("GET", "/", headers={"Cookie": '"'}).status_code == 401


def test_a_pause_twice_is_one(desk: Desk) -> None:
    pause(desk.state)
    since = Pause.of_node(desk.state)
    assert "was paused already" in desk.send("/pause").text
    assert Pause.of_node(desk.state) == since


@pytest.mark.parametrize("content", ["not json", '{"schema_version": 99}'])
def test_a_pause_that_cannot_be_read_is_a_pause(desk: Desk, content: str) -> None:
    (desk.state / PAUSED).write_text(content)
    assert "This node is paused" in desk.page()
