"""The application: a page for each language at /en/ and /zh/, the choice between them at /, guards before all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from gradio.routes import mount_gradio_app
from starlette.requests import Request

from modules.web.convert.tab import ConvertTab
from modules.web.guard import PageWatch, RequestGuard
from modules.web.language import LANGUAGES, preferred_language, texts
from modules.web.middleware import HeadScript
from modules.web.page import QUIET, Page, PageBlocks
from modules.web.state import ServerState
from modules.web.theme import CSS_FILE, theme
from modules.web.tools.tab import build_tools_tab
from modules.web.train.tab import TrainTab

TABS: dict[str, Callable[[Page], object]] = {  # by their names in the address and in locales/
    "convert": ConvertTab,
    "tools": build_tools_tab,
    "prepare": TrainTab,
}


def build_page(state: ServerState, language: str) -> gr.Blocks:
    """The whole page in one language."""
    with PageBlocks(title=texts(language)["page.title"], analytics_enabled=False) as blocks:
        blocks.language = language
        page = Page(state, language, blocks)
        _build_head(page)
        with gr.Tabs(elem_id="tabs"):
            for name, build in TABS.items():
                with page.field(gr.Tab, f"tab.{name}", id=name) as opened:
                    build(dataclasses.replace(page, tab=opened))
        _build_foot(page)
        blocks.unload(state.end_session)
    return blocks


def _build_head(page: Page) -> None:
    links = " · ".join(_link(language, page.language) for language in LANGUAGES)
    gr.HTML(f'<div class="head"><h1>{page.say("page.title")}</h1><nav id="languages">{links}</nav></div>')


def _link(language: str, current: str) -> str:
    name = texts(language)["language.name"]
    return f"<b>{name}</b>" if language == current else f'<a href="/language/{language}">{name}</a>'


def _build_foot(page: Page) -> None:
    debug = page.field(gr.Checkbox, "debug", value=False)

    def set_debug(on: bool, request: gr.Request) -> None:
        page.session(request).debug = on
        gr.Info(page.say("debug.on" if on else "debug.off"))

    debug.change(page.guarded(set_debug), debug, None, **QUIET)


COOKIE = "language"
REMEMBERED = 365 * 24 * 3600  # seconds
AT_ONCE = 8  # clicks of all pages that are answered at a time


def build_app(state: ServerState, password: str | None, local_only: bool, max_upload: int) -> FastAPI:
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
        blocks = build_page(state, language)
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
            css=CSS_FILE.read_text(encoding="utf-8"),
        )
    app.add_middleware(HeadScript)
    app.add_middleware(PageWatch, opened=state.page_opened, closed=state.page_closed)
    app.add_middleware(RequestGuard, password=password, local_only=local_only, max_body=max_upload)
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
