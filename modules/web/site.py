"""The site: a page for each language at /en/ and /zh/, the choice between them at /, and the gate before all of it."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from gradio.routes import mount_gradio_app
from starlette.requests import Request

from modules.web.app import build_page
from modules.web.early_script import EarlyScript
from modules.web.gate import Gate
from modules.web.looks import CSS, theme
from modules.web.studio import Studio
from modules.web.texts import LANGUAGES, preferred_language

COOKIE = "language"
REMEMBERED = 365 * 24 * 3600  # seconds
AT_ONCE = 8  # clicks of all pages that are answered at a time


def build_site(studio: Studio, password: str | None, local_only: bool, max_upload: int) -> FastAPI:
    """The application.

    Args:
        password: asked for before anything is answered; None asks for nothing.
        local_only: answer only requests that name this machine itself.
        max_upload: bytes of one file.
    """
    no_docs = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/", choose_language, include_in_schema=False)
    app.add_api_route("/language/{language}", switch_language, include_in_schema=False)
    for language in LANGUAGES:
        blocks = build_page(studio, language)
        blocks.queue(default_concurrency_limit=AT_ONCE, api_open=False)
        mount_gradio_app(
            app,
            blocks,
            path=f"/{language}",
            footer_links=[],
            run_history=False,
            app_kwargs=no_docs,
            max_file_size=max_upload,
            ssr_mode=False,
            theme=theme(),
            css=CSS,
        )
    app.add_middleware(EarlyScript)
    app.add_middleware(Gate, password=password, local_only=local_only, max_body=max_upload)
    return app


def choose_language(request: Request) -> RedirectResponse:
    """To the page in the language that was chosen before, else in the browser's."""
    chosen = request.cookies.get(COOKIE)
    language = chosen if chosen in LANGUAGES else preferred_language(request.headers.get("accept-language", ""))
    return RedirectResponse(f"/{language}/", status_code=303)


def switch_language(language: str) -> RedirectResponse:
    """Remember a language, and go to its page."""
    known = language if language in LANGUAGES else LANGUAGES[0]
    response = RedirectResponse(f"/{known}/", status_code=303)
    response.set_cookie(COOKIE, known, max_age=REMEMBERED, httponly=True, samesite="lax")
    return response
