"""How the page looks: fonts of the system, one colour; the rules are in page.css."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from modules.web.language import texts

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
CSS_FILE = Path(__file__).with_name("page.css")

HEAD = """<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
%3Ccircle cx='8' cy='8' r='8' fill='%230d9488'/%3E%3Cpath d='M4 8h1V6h1v5h1V4h1v8h1V5h1v5h1V7h1v1' fill='none' \
stroke='white'/%3E%3C/svg%3E">
<script>
for (const [name, value] of [["language", "LOCALE"], ["languages", ["LOCALE"]]])
  Object.defineProperty(navigator, name, {get: () => value});
document.documentElement.lang = "LOCALE";
document.documentElement.style.setProperty("--error-title", "'ERROR_TITLE'");
addEventListener("beforeunload", event => {
  if (document.querySelector(".song.waiting, .song.loading, .song.in-line, .song.running")) event.preventDefault();
});
</script>"""


def theme() -> gr.themes.Base:
    """A plain theme that loads no font from anywhere."""
    plain = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=SANS, font_mono=MONO)
    # Gradio's own greys and teals are too pale to be read by everybody: WCAG AA asks for a contrast of 4.5
    quiet, quiet_dark, strong = "*neutral_600", "*neutral_300", "*primary_700"
    return plain.set(
        body_background_fill="*neutral_50",
        block_label_background_fill="*background_fill_primary",
        body_text_color_subdued=quiet,
        body_text_color_subdued_dark=quiet_dark,
        block_info_text_color=quiet,
        block_info_text_color_dark=quiet_dark,
        block_label_text_color=quiet,
        block_label_text_color_dark=quiet_dark,
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        color_accent=strong,
        button_primary_background_fill=strong,
        button_primary_background_fill_dark=strong,
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_text_color="white",
        link_text_color=strong,
        link_text_color_dark="*primary_300",
    )


def head_script(language: str) -> str:
    """HTML that comes before Gradio's scripts: its words follow the language of the page, not of the browser."""
    known = texts(language)
    return HEAD.replace("LOCALE", known["language.tag"]).replace("ERROR_TITLE", known["page.error"])
