"""The service: ``/recommend``, ``/health`` and ``/metrics``, and what they answer. The owner's page
at ``/`` is in `owner_service`.

Answers are JSON. Every error is ``{"error": "…"}``, with what was found, what was expected and how
to repair it; it goes to the client alone. Of wrong values only the field is named, and ids that are
not in the catalog, which a client cannot find otherwise.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Body, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from lumos_core import __version__
from lumos_core.data.catalog import Catalog
from lumos_core.errors import DataError
from lumos_core.recommend.recommender import History, Recommendation
from lumos_core.serving.access_token import Access
from lumos_core.serving.newest_model import ModelVersion, Newest, Served
from lumos_core.serving.owner_service import Owner, add_owner_page
from lumos_core.serving.request_guard import LONGEST_ID, Guard, Limits, RefusedError, failure
from lumos_core.serving.request_metrics import RequestMetrics

MOST_ITEMS = 1000
"""Of a session. Models read the last 50 or so; all are left out of the recommendations."""
MOST_RECOMMENDED = 100
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
Wanted = Annotated[int, Field(ge=1, le=MOST_RECOMMENDED)]


class Asked(BaseModel):
    """The body of ``POST /recommend``: the items of a session, or a user of the node."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: Annotated[list[Id], Field(min_length=1, max_length=MOST_ITEMS)] | None = None
    user: Id | None = None
    k: Wanted = 10

    @model_validator(mode="after")
    def _one_of_both(self) -> "Asked":
        if (self.items is None) == (self.user is None):
            raise ValueError(
                "expected either items, the item ids of a session in the order of time, or user"
            )
        return self


def http_service(
    newest: Newest,
    access: Access,
    *,
    threads: int = 1,
    limits: Limits | None = None,
    owner: Owner | None = None,
) -> ASGIApp:
    """The service as an ASGI application.

    Args:
        newest: what is in use; it may be replaced at any time.
        access: who may ask.
        threads: rankings at a time.
        limits: bounds of requests.
        owner: the node, for the owner's page; None: there is none.
    """
    metrics = RequestMetrics(newest)
    ranking = CapacityLimiter(threads)
    # no pages that load scripts from other machines
    service = FastAPI(title="LUMOS", version=__version__, docs_url=None, redoc_url=None)

    async def answer(asked: Asked) -> JSONResponse:
        served = newest.served  # one for the whole request, whatever happens meanwhile
        return await anyio.to_thread.run_sync(_answer, served, asked, limiter=ranking)

    @service.get("/recommend")
    async def of_user(
        user: Annotated[str, Query(min_length=1, max_length=LONGEST_ID)],
        k: Annotated[int, Query(ge=1, le=MOST_RECOMMENDED)] = 10,
    ) -> Response:
        """Recommend to a user of this node, from their history."""
        return await answer(Asked(user=user, k=k))

    @service.post("/recommend")
    async def of_session(asked: Annotated[Asked, Body()]) -> Response:
        """Recommend to whoever has these items in their session; nothing of it is kept."""
        return await answer(asked)

    @service.get("/health")
    async def health() -> Response:
        """Whether there is a model to answer with."""
        version = newest.served.version
        if version is None:
            return JSONResponse({"status": "no model"}, 503)
        return JSONResponse({"status": "ok", "model": _version(version)})

    @service.get("/metrics")
    async def numbers() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type=_PROMETHEUS)

    if owner is not None:
        add_owner_page(service, owner, access)
    service.add_exception_handler(RequestValidationError, _invalid)
    service.add_exception_handler(HTTPException, _unknown)
    service.add_exception_handler(RefusedError, _refused)
    service.add_exception_handler(Exception, _failed)
    return Guard(service, access, metrics, limits or Limits())


def _answer(served: Served, asked: Asked) -> JSONResponse:
    if served.recommender is None or served.version is None:
        raise RefusedError(
            503,
            "there is no model yet: the node keeps one after its first round of training, unless "
            "keep-model = false; the log of the service says what it found",
            retry_after="10",
        )
    history = _history(served, asked)
    found = served.recommender.for_user(history, top=asked.k)
    return JSONResponse(
        {"model": _version(served.version), "recommendations": [_as_json(r) for r in found]}
    )


def _history(served: Served, asked: Asked) -> History:
    if asked.items is not None:
        return _indices(asked.items, served.histories.catalog)
    history = served.histories.of(asked.user or "")
    if history is None:
        raise RefusedError(
            404,
            "this node has no interaction of this user; check the id, or send the items of the "
            "session by POST",
        )
    return history


def _indices(items: Sequence[str], catalog: Catalog) -> list[int]:
    known, unknown = [], []
    for item in items:
        try:
            known.append(catalog.index(item))
        except DataError:
            unknown.append(item)
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise RefusedError(
            422,
            f"items: {unknown[0][:60]!r}{more} not in the catalog of {len(catalog)} items; send "
            "ids as in the first column of catalog.tsv, and leave other items out",
        )
    return known


def _as_json(found: Recommendation) -> dict[str, Any]:
    return {
        "rank": found.rank,
        "item_id": found.item_id,
        "title": found.title,
        "score": found.score,
        "reasons": [
            {"item_id": r.item_id, "title": r.title, "similarity": r.similarity}
            for r in found.reasons
        ],
    }


def _version(version: ModelVersion) -> dict[str, Any]:
    return {
        "digest": version.digest,
        "round": version.card.round,
        "final": version.card.final,
        "written": round(version.written),
    }


# ---------------------------------------------------------------- errors
async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query"))
    what = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] == "json_invalid":
        where, what = "", "the body is not JSON"
    elif problem["type"] in ("model_attributes_type", "model_type"):
        where, what = "", "the body is not a JSON object, or its content-type is not JSON"
    elif problem["type"] == "missing":
        where, what = where or "the body", "is missing"
    example = "/recommend?user=ID&k=10"
    if request.method == "POST":
        example = '{"items": ["ID", "ID"], "k": 10} as application/json'
    named = ": ".join(part for part in (where, what) if part)
    return JSONResponse({"error": f"{named}; expected a request such as {example}"}, 422)


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {
        404: "no such path",
        405: "this path does not have this method",
    }.get(error.status_code, str(error.detail))
    known = "there are GET and POST /recommend, GET /health, GET /metrics and the page at /"
    return JSONResponse({"error": f"{reason}; {known}"}, error.status_code, error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return error.response()


async def _failed(request: Request, error: Exception) -> Response:
    return failure(error).response()  # the guard gets the exception as well, and logs its type
