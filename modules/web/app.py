"""The page: its tabs in order, what stands above and below them, and its looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from modules.web.convert_tab import build_convert_tab
from modules.web.page import Page
from modules.web.prepare_tab import build_prepare_tab
from modules.web.studio import Studio
from modules.web.texts import LANGUAGES, NAMES, Common, Language, Text
from modules.web.tools_tab import build_tools_tab


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
