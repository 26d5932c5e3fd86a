"""How the page looks: fonts of the system, one colour, and rules for narrow screens."""

from __future__ import annotations

import gradio as gr

from modules.web.texts import LOCALES, Language

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

CSS = """
.head { display: flex; align-items: baseline; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
.head h1 { font-size: 1.4rem; margin: 0.2rem 0; }
footer { display: none !important; }
"""

SCRIPT = """<script>
for (const [name, value] of [["language", "LOCALE"], ["languages", ["LOCALE"]]])
  Object.defineProperty(navigator, name, {get: () => value});
document.documentElement.lang = "LOCALE";
</script>"""


def theme() -> gr.themes.Base:
    """A plain theme that loads no font from anywhere."""
    return gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=SANS, font_mono=MONO)


def head(language: Language) -> str:
    """A script that runs before Gradio's own: its words follow the language of the page, not of the browser."""
    return SCRIPT.replace("LOCALE", LOCALES[language])
