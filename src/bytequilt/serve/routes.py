"""The routes of the server."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from .answer import Plan, answer, while_connected
from .errors import NotFound, Unavailable
from .forms import ChatForm, CompletionForm
from .models import Models
from .patches import Patching
from .schema import ChatRequest, CompletionRequest, PatchesRequest
from .scoring import score

TURN = "\n\nUser:"  # the start of the next message in the plain template


class Problem(BaseModel):
    """The description of an error, in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    error: Problem


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
STATUSES = (400, 401, 404, 408, 413, 422, 429, 500, 503)


def router(models: Models, locked: bool) -> APIRouter:
    """All routes of the API. `locked` only adds to the schema that a key is needed; the guard checks the key."""
    routes = APIRouter(
        responses={status: {"model": Failure} for status in STATUSES},
        dependencies=[Depends(HTTPBearer(auto_error=False))] if locked else [],
    )
    _generation(routes, models)
    _patches(routes, models)
    _cards(routes, models)
    return routes


def _generation(routes: APIRouter, models: Models) -> None:
    @routes.post("/v1/completions", response_model=None)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue one or several texts; with `echo` and `logprobs`, also score them."""
        engine = models.engine(body.model)
        prompts = body.check(models.limits)
        scores = []
        if body.echo and body.logprobs is not None:
            for prompt in prompts:
                work = score(engine.lm.session(), prompt, body.logprobs)
                scores.append(await while_connected(request, engine.compute(work)))
        texts = [
            (prompt, body.sampling(index, body.max_tokens, body.logprobs))
            for prompt in prompts
            for index in range(body.n)
        ]
        form = CompletionForm(body.logprobs)
        plan = Plan(engine, form, prompts, texts, body.stream, body.include_usage, body.echo, scores)
        return await answer(request, plan)

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request, body: ChatRequest) -> Response:
        """Continue a conversation, written in the plain template: base models have learnt no chat format."""
        engine = models.engine(body.model)
        prompt, top = body.check(models.limits), (body.top_logprobs or 0) if body.logprobs else None
        texts = [(prompt, body.sampling(index, body.max_bytes, top, [TURN])) for index in range(body.n)]
        plan = Plan(engine, ChatForm(top), [prompt], texts, body.stream, body.include_usage)
        return await answer(request, plan)


def _patches(routes: APIRouter, models: Models) -> None:
    patchings = {name: Patching(engine.lm.patcher) for name, engine in models.engines.items()}

    @routes.post("/v1/patches", response_model=None)
    async def patches(request: Request, body: PatchesRequest) -> dict[str, Any]:
        """The patches of a text, the entropy of each byte, and the reason for each patch start."""
        engine, data = models.engine(body.model), body.check(models.limits)
        tokens = {} if body.tokens is None else {"tokens": models.tokens(body.tokens, data)}
        work = patchings[engine.name].show(data, body.threshold_bits, body.compare)
        shown = await while_connected(request, engine.compute(work))
        return {"model": engine.name, **shown, **tokens}


def _cards(routes: APIRouter, models: Models) -> None:
    @routes.get("/v1/models", response_model=None)
    async def cards() -> dict[str, Any]:
        """The served models. Their unit is the byte."""
        return {"object": "list", "data": [models.card(name) for name in models.engines]}

    @routes.get("/v1/models/{model:path}", response_model=None)
    async def card(model: str) -> dict[str, Any]:
        """The description of one model."""
        return models.card(model)

    @routes.api_route("/v1/{path:path}", methods=METHODS, include_in_schema=False, response_model=None)
    async def nothing(path: str) -> None:
        """Answer unknown API addresses. Otherwise the static files would answer, which allow only GET."""
        raise NotFound("there is nothing here")

    @routes.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Metrics in the text format of Prometheus."""
        return Response(models.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def health(models: Models) -> APIRouter:
    """The route /health: it says whether the server accepts requests. It needs no key."""
    routes = APIRouter()

    @routes.head("/health", include_in_schema=False, response_model=None)
    @routes.get("/health", response_model=None, responses={503: {"model": Failure}})
    async def answer_health() -> Response:
        if models.fault is None and not models.draining:
            return JSONResponse({"status": "ok"})
        why = "the engine has failed" if models.fault is not None else "the server is about to end"
        return Unavailable(why).answer()

    return routes
