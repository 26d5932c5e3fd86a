"""How the page looks: fonts of the system, one colour, and rules for narrow screens."""

from __future__ import annotations

import gradio as gr

from modules.web.language import LOCALES, Language

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

CSS = """
.head { display: flex; align-items: baseline; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
.head h1 { font-size: 1.4rem; margin: 0.2rem 0; }
footer { display: none !important; }
h3 { margin: 0.4rem 0; }
p.mild { color: var(--body-text-color-subdued); font-size: 0.85rem; margin: 0.15rem 0; }
p.good { color: #0f766e; font-size: 0.9rem; margin: 0.15rem 0; }
p.warn { color: #b45309; font-size: 0.9rem; margin: 0.15rem 0; }
p.bad { color: #b91c1c; font-size: 0.9rem; margin: 0.15rem 0; }
.close { align-items: end; }
.queue .song { display: grid; grid-template-columns: minmax(6rem, 1fr) 2fr minmax(5rem, auto); gap: 0.3rem 0.8rem;
  align-items: center; padding: 0.25rem 0; }
.queue .song p { grid-column: 1 / -1; }
.queue .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.queue .bar { height: 0.5rem; border-radius: 0.25rem; background: var(--border-color-primary); overflow: hidden; }
.queue .bar i { display: block; height: 100%; background: #0d9488; }
.queue .failed .bar i { background: #b91c1c; }
.queue .cancelled .bar i { background: #94a3b8; }
.mix-drawing { width: 100%; height: 7rem; border: 1px solid var(--border-color-primary); border-radius: 0.4rem; }
.mix-legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; font-size: 0.85rem; }
.mix-legend i { display: inline-block; width: 0.8rem; height: 0.8rem; border-radius: 0.2rem; margin-right: 0.3rem; }
.prepare-step { border-left: 3px solid var(--border-color-primary); padding-left: 0.8rem; gap: 0.5rem; }
.prepare-step h4 { margin: 0.2rem 0; }
.prepare-command textarea { font-family: var(--font-mono); font-size: 0.85rem; }
.prepare-bar { height: 0.5rem; border-radius: 0.25rem; background: var(--border-color-primary); overflow: hidden;
  margin: 0.3rem 0; }
.prepare-bar i { display: block; height: 100%; background: #0d9488; }
.prepare-bar i.unknown { width: 30%; animation: prepare-wander 2s ease-in-out infinite alternate; }
@keyframes prepare-wander { from { margin-left: 0; } to { margin-left: 70%; } }
.prepare-message, #prepare-log pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.8rem;
  font-family: var(--font-mono); background: var(--background-fill-secondary); padding: 0.5rem;
  border-radius: 0.3rem; max-height: 20rem; overflow-y: auto; }
#prepare-speakers .wrap { max-height: 12rem; overflow-y: auto; }
.prepare-report { width: 100%; border-collapse: collapse; font-size: 0.9rem; }
.prepare-report th, .prepare-report td { text-align: right; padding: 0.25rem 0.5rem; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.prepare-report, .prepare-report tr { border: 0 !important; }
#prepare-report p { overflow-wrap: anywhere; }
.prepare-report th:first-child, .prepare-report td:first-child { text-align: left; font-weight: 600; }
.prepare-report th { font-weight: normal; color: var(--body-text-color-subdued); font-size: 0.8rem; }
.prepare-charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 1rem; }
.prepare-charts figure { margin: 0; }
.prepare-charts figcaption { font-size: 0.85rem; color: var(--body-text-color); }
.prepare-charts svg { width: 100%; height: auto; }
.prepare-charts text { font-size: 11px; fill: var(--body-text-color-subdued); }
.prepare-charts line { stroke: var(--border-color-primary); stroke-width: 0.7; }
.prepare-charts path { fill: none; stroke: #0d9488; stroke-width: 1.8; stroke-linejoin: round; }
.prepare-charts path.raw { stroke-width: 1; opacity: 0.35; }
.prepare-charts circle { fill: #0d9488; }
@media (max-width: 700px) {
  .prepare-report thead { display: none; }
  .prepare-report tr { display: block; border-bottom: 2px solid var(--border-color-primary); padding: 0.3rem 0; }
  .prepare-report td, .prepare-report td:first-child { display: flex; justify-content: space-between; border: 0;
    padding: 0.1rem 0.3rem; }
  .prepare-report td::before { content: attr(data-title); color: var(--body-text-color-subdued); font-weight: normal; }
}
"""

SCRIPT = """<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
%3Ccircle cx='8' cy='8' r='8' fill='%230d9488'/%3E%3Cpath d='M4 8h1V6h1v5h1V4h1v8h1V5h1v5h1V7h1v1' fill='none' \
stroke='white'/%3E%3C/svg%3E">
<script>
for (const [name, value] of [["language", "LOCALE"], ["languages", ["LOCALE"]]])
  Object.defineProperty(navigator, name, {get: () => value});
document.documentElement.lang = "LOCALE";
</script>"""


def theme() -> gr.themes.Base:
    """A plain theme that loads no font from anywhere."""
    plain = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=SANS, font_mono=MONO)
    return plain.set(body_background_fill="*neutral_50", block_label_background_fill="*background_fill_primary")


def early_script(language: Language) -> str:
    """HTML that comes before Gradio's scripts: its words follow the language of the page, not of the browser."""
    return SCRIPT.replace("LOCALE", LOCALES[language])
