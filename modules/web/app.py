"""The page: its tabs in order, what stands above and below them, and its looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from gradio.routes import mount_gradio_app
from starlette.requests import Request

from modules.web.convert.tab import build_convert_tab
from modules.web.language import LANGUAGES, NAMES, Common, Language, Text, preferred_language
from modules.web.middleware import EarlyScript, Gate
from modules.web.page import Page
from modules.web.state import Studio
from modules.web.theme import CSS, theme
from modules.web.tools.tab import build_tools_tab
from modules.web.train.tab import build_prepare_tab


@dataclass(frozen=True)
class Tab:
    """A tab: its name in the address and in the tests, its title, what fills it."""

    name: str
    title: Text
    build: Callable[[Page], None]


TABS = (
    Tab("convert", Text("Convert", "转换"), build_convert_tab),
    Tab("tools", Text("Tools", "工具"), build_tools_tab),
    Tab("prepare", Text("Prepare & train", "准备与训练"), build_prepare_tab),
)


def build_page(studio: Studio, language: Language) -> gr.Blocks:
    """The whole page in one language."""
    with gr.Blocks(title=Common.TITLE.say(language), analytics_enabled=False) as blocks:
        page = Page(studio, language, blocks)
        _build_head(page)
        with gr.Tabs(elem_id="tabs"):
            for tab in TABS:
                with gr.Tab(page.say(tab.title), id=tab.name, elem_id=f"tab-{tab.name}") as opened:
                    tab.build(dataclasses.replace(page, tab=opened))
        _build_foot(page)
        blocks.unload(studio.end_session)
    return blocks


def _build_head(page: Page) -> None:
    links = " · ".join(_link(language, page.language) for language in LANGUAGES)
    gr.HTML(f'<div class="head"><h1>{page.say(Common.TITLE)}</h1><nav id="languages">{links}</nav></div>')


def _link(language: Language, current: Language) -> str:
    if language == current:
        return f"<b>{NAMES[language]}</b>"
    return f'<a href="/language/{language}">{NAMES[language]}</a>'


def _build_foot(page: Page) -> None:
    debug = gr.Checkbox(label=page.say(Common.DEBUG), value=False, elem_id="debug")

    def set_debug(on: bool, request: gr.Request) -> None:
        page.session(request).debug = on
        gr.Info(page.say(Common.DEBUG_ON if on else Common.DEBUG_OFF))

    debug.change(page.guarded(set_debug), debug, None, show_progress="hidden")


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
