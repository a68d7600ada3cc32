"""The web application: routes, the page, middleware, and the form of every error."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from .. import __version__
from ..config.base import LONGEST_LINE
from .errors import ApiError, BadRequest, Invalid, refusal
from .guard import Formed, Guard
from .models import Models
from .routes import health, router

PAGE = Path(__file__).parent / "page"


def application(
    models: Models, keys: tuple[str, ...] = (), origins: tuple[str, ...] = (), hosts: tuple[str, ...] = ()
) -> FastAPI:
    """Create the ASGI application.

    `origins` are the origins of web pages that may call the API from a browser (CORS). `hosts` are the accepted host
    names; if none are given, all are accepted.
    """
    app = FastAPI(
        title="bytequilt",
        version=__version__,
        docs_url=None,  # these pages would load scripts from other servers
        redoc_url=None,
    )
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=models.limits.body_bytes)
    app.add_middleware(Guard, keys=keys, limits=models.limits)
    if hosts:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Formed)
    _handle_errors(app)
    app.include_router(router(models, bool(keys)))
    app.include_router(health(models))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def _handle_errors(app: FastAPI) -> None:
    """Send errors of routes in OpenAI's form. The middleware `Formed` does this for errors outside the routes."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.answer()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(list(error.errors())).answer()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail)).answer(error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return ApiError("the server failed; its log says why").answer()


def _invalid(errors: list[dict[str, Any]]) -> ApiError:
    """The error for the first wrong field. If it may have several types, the error is that of the nearest type."""
    field = errors[0]["loc"][:2]
    error = max((error for error in errors if error["loc"][:2] == field), key=lambda error: len(error["loc"]))
    if error["type"] == "json_invalid":
        return BadRequest("the request is no valid JSON")
    place = [part for part in error["loc"][1:] if isinstance(part, int) or part.isidentifier()]
    param = ".".join(map(str, place)) or None
    told = "there is no such field here" if error["type"] == "extra_forbidden" else error["msg"]
    message = f"{param or 'the request'}: {told.removeprefix('Value error, ')}"
    return Invalid(message[:LONGEST_LINE], param=param)
