"""The pretrained weights that a conversion needs: which are missing, how large they are, and fetching them here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import gradio as gr

from modules.config import load_diffusion_config
from modules.errors import UserError
from modules.f0 import PREDICTORS
from modules.web.catalog import ModelEntry, config_of
from modules.web.convert.voice import VoiceBox
from modules.web.page import QUIET, Page, Updates, Values, paragraph
from modules.web.scripts import run_script
from pretrain import find, weight_named

VOCODER = "nsf_hifigan"
_PROGRESS = re.compile(r"\S+: (?P<done>\d+)(?: of (?P<total>\d+))? MB")  # a line of pretrain/download.py


class WeightsBox:
    """A line that says what has to be fetched once, and the button that does it; nothing where all is there."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.note = page.field(gr.HTML, "convert.weights")
        self.fetch = page.field(gr.Button, "convert.fetch", variant="primary", visible=False, size="sm")

    def connect(self, voice: VoiceBox, predictor: Any) -> None:
        """Look anew when the voice or what it is used with changes."""
        self.voice, self.predictor = voice, predictor
        watched: list[Any] = [voice.model, predictor, voice.enhance, voice.diffusion_mode]
        inputs, outputs = {*watched, voice.diffusion}, [self.note, self.fetch]
        changes = [*(component.change for component in watched), self.page.blocks.load]
        gr.on(changes, self.page.guarded(self._look), inputs, outputs, **QUIET)
        self.fetch.click(self.page.guarded(self._fetch), inputs, outputs, **QUIET)

    def check(self, values: Values, request: gr.Request) -> None:
        """Raises UserError where something has to be fetched first."""
        missing = self._missing(values, request)
        if missing:
            say = self.page.say
            raise UserError(self._line(missing), "", say("convert.fetch-first", button=say("convert.fetch")))

    def _missing(self, values: Values, request: gr.Request) -> list[str]:
        entry = self.page.session(request).conversion.catalog().entries.get(values[self.voice.model] or "")
        diffuses = values[self.voice.diffusion_mode] != "none"
        if entry is None or (diffuses and not entry.diffusions):
            return []
        names = needed(entry, str(values[self.predictor]), bool(values[self.voice.enhance]), diffuses)
        return [name for name in names if find(name, self.page.state.folders.pretrain) is None]

    def _line(self, missing: list[str]) -> str:
        size = round(sum(weight_named(name).size for name in missing) / 1e6)
        return self.page.say("convert.weights-missing", names=", ".join(missing), size=size)

    def _look(self, values: Values, request: gr.Request) -> Updates:
        try:
            missing = self._missing(values, request)
        except UserError:  # the voice cannot be read, which is said where it is chosen
            missing = []
        note = paragraph(html.escape(self._line(missing)), "warn") if missing else ""
        return {self.note: note, self.fetch: gr.update(visible=bool(missing))}

    def _fetch(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        missing = self._missing(values, request)
        session, pretrain = self.page.session(request), self.page.state.folders.pretrain
        yield {self.note: self._bar(missing, None), self.fetch: gr.update(visible=False)}
        try:
            for line in run_script(session, ["-m", "pretrain", "fetch", *missing], ["--dir", pretrain]):
                yield {self.note: self._bar(missing, _PROGRESS.fullmatch(line))}
        finally:
            yield self._look(values, request)

    def _bar(self, missing: list[str], progress: re.Match[str] | None) -> str:
        said: dict[str, Any] = progress.groupdict() if progress else {}
        total = said.get("total") or round(sum(weight_named(name).size for name in missing) / 1e6)
        done = said.get("done") or 0
        text = self.page.say("convert.fetching", names=", ".join(missing), done=done, total=total)
        width = f'<i style="width: {100 * int(done) / max(1, int(total)):.0f}%"></i>'
        bar = width if progress else '<i class="unknown"></i>'
        return f'<div role="status">{paragraph(html.escape(text))}<div class="prepare-bar">{bar}</div></div>'


def needed(entry: ModelEntry, predictor: str, enhance: bool, diffuses: bool) -> list[str]:
    """Names of the weights that a voice needs with these settings. Raises UserError where its config is broken."""
    names = []
    if entry.onnx is None:
        config = config_of(entry)
        if config is not None:
            encoder = config.model.speech_encoder
        elif entry.diffusions:
            encoder = load_diffusion_config(entry.diffusions[0].config).data.encoder
        else:
            return []
        names.append(weight_named(encoder).name)
        names += [VOCODER] if enhance or diffuses else []
    spec = PREDICTORS.get(predictor)
    names += [weight_named(spec.weights).name] if spec is not None and spec.weights else []
    return names
