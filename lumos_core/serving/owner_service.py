"""The page for a node's owner, at ``/``: it shows what left the machine, pauses and resumes the
node, and forgets users.

Whatever changes something is a form that is sent by POST, with a proof that only this page knows
and, from browsers, an ``Origin`` that is the page's own: a page of somebody else can make a browser
send forms, but has neither. A user's id is in the body of a request only, never in an address or
the log.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from lumos_core.config import NodeConfig
from lumos_core.errors import LumosError
from lumos_core.federation.owner_pause import pause, resume
from lumos_core.pages.browser_access import page_headers
from lumos_core.pages.page import Finding, Page, policy, referrer, render
from lumos_core.serving.access_token import Access
from lumos_core.serving.newest_model import Newest
from lumos_core.serving.owner_page import (
    CSRF,
    SURE,
    USER,
    ForgettingPlan,
    Sight,
    confirmation_page,
    owner_page,
)
from lumos_core.serving.request_guard import LONGEST_ID, PAGE_PATH, RefusedError


class Forget(Protocol):
    """Forgets users of the node."""

    def plan(self, user: str) -> ForgettingPlan:
        """What it would mean. Raises LumosError if it cannot be done."""

    def carry_out(self, user: str) -> str:
        """Do it; what was done, in a sentence. Raises LumosError if it cannot be done."""


@dataclass(frozen=True)
class Owner:
    """A node, as its owner's page needs it.

    Attributes:
        node: its settings.
        newest: data and model in use.
        forget: forgets users.
        proof: what forms bring to show that this page made them.
    """

    node: NodeConfig
    newest: Newest
    forget: Forget
    proof: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def sight(self, notice: Finding | None = None) -> Sight:
        return Sight(self.node, self.newest.served, self.proof, notice)


def add_owner_page(service: FastAPI, owner: Owner, access: Access) -> None:
    """Add the page and what its forms do.

    Args:
        service: gets the paths ``/``, ``/pause``, ``/resume`` and ``/forget``.
        owner: the node.
        access: who may see it.
    """

    @service.get(PAGE_PATH, include_in_schema=False)
    async def page(request: Request) -> Response:
        if access.token and request.url.query:  # the token leaves the address bar
            return RedirectResponse(PAGE_PATH, 303, {"Set-Cookie": access.cookie(), **_SECRET})
        return await _shown(lambda: owner_page(owner.sight()))

    @service.post("/pause", include_in_schema=False)
    async def pausing(request: Request) -> Response:
        await _form(request, owner)
        return await _done(owner, lambda: _paused(owner))

    @service.post("/resume", include_in_schema=False)
    async def resuming(request: Request) -> Response:
        await _form(request, owner)
        return await _done(owner, lambda: _resumed(owner))

    @service.post("/forget", include_in_schema=False)
    async def forgetting(request: Request) -> Response:
        form = await _form(request, owner)
        user = form.get(USER, "").strip()
        if not 0 < len(user) <= LONGEST_ID:
            raise RefusedError(422, f"{USER}: expected an id of 1 to {LONGEST_ID} characters")
        if form.get(SURE) == "yes":
            return await _done(owner, lambda: Finding(owner.forget.carry_out(user), "", "good"))
        return await _tried(
            owner, lambda: confirmation_page(owner.sight(), user, owner.forget.plan(user))
        )


def _paused(owner: Owner) -> Finding:
    fresh = pause(owner.node.state_folder)
    text = "This node is paused." if fresh else "This node was paused already."
    return Finding(text, "A message that it works on already is finished.", "good")


def _resumed(owner: Owner) -> Finding:
    ended = resume(owner.node.state_folder)
    text = "This node takes part again." if ended else "This node was not paused."
    return Finding(text, "A server that was refused asks again by itself.", "good")


# ---------------------------------------------------------------- requests
async def _form(request: Request, owner: Owner) -> dict[str, str]:
    """What a form has sent.

    Raises:
        RefusedError: it does not come from this page.
    """
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise RefusedError(403, "this form was sent by another page; open this one and use it")
    try:
        found = parse_qs((await request.body()).decode("utf-8"), max_num_fields=8)
    except ValueError:
        raise RefusedError(422, "the body is not a form of this page; open it and use it") from None
    form = {name: values[0] for name, values in found.items()}
    if not hmac.compare_digest(form.get(CSRF, "").encode(), owner.proof.encode()):
        raise RefusedError(
            403, "this form is from before the program was started anew; open the page again"
        )
    return form


# ---------------------------------------------------------------- answers
async def _done(owner: Owner, act: Callable[[], Finding]) -> Response:
    """The page, with what came of an action."""
    return await _tried(owner, lambda: owner_page(owner.sight(act())))


async def _tried(owner: Owner, make: Callable[[], Page]) -> Response:
    """A page, or if it cannot be made the owner's page with the reason."""

    def page() -> tuple[Page, int]:
        try:
            return make(), 200
        except LumosError as error:
            return owner_page(owner.sight(Finding(str(error), "Nothing was changed.", "bad"))), 409

    found, status = await anyio.to_thread.run_sync(page)
    return _html(found, status)


async def _shown(make: Callable[[], Page]) -> Response:
    return _html(await anyio.to_thread.run_sync(make))


def _html(page: Page, status: int = 200) -> Response:
    return HTMLResponse(render(page, forms=True), status, _SECRET)


_SECRET = page_headers(policy(header=True, forms=True), referrer(forms=True))
