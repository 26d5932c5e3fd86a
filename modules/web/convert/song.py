"""The box of the song: files, the microphone, or text that is spoken; and whether it suits the voice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from modules.audio.io import AUDIO_EXTENSIONS
from modules.data.f0_ranges import describe, fits, shifted, song_range, suggested_shift, trained_range
from modules.errors import UserError
from modules.web.convert import speech
from modules.web.convert.session import Desk, config_of
from modules.web.convert.voice import VoiceBox
from modules.web.page import Page
from modules.web.texts_convert import Convert

Values = dict[Any, Any]
KINDS = ("files", "microphone", "speech")


class SongBox:
    """Components and what they do. ``inputs`` are read by ``chosen``."""

    def __init__(self, page: Page) -> None:
        self.page = page
        say = page.say
        gr.HTML(f"<h3>{say(Convert.SONG)}</h3>")
        self.kind = gr.State("files")
        with gr.Tabs(elem_id="convert-source"):
            with gr.Tab(say(Convert.FILES), id="files") as files_tab:
                self.files = gr.File(
                    file_count="multiple",
                    file_types=sorted(AUDIO_EXTENSIONS),
                    label=say(Convert.FILES),
                    height=150,
                    elem_id="convert-files",
                )
                gr.HTML(f'<p class="mild">{say(Convert.FILES_HELP)}</p>')
            with gr.Tab(say(Convert.MICROPHONE), id="microphone") as microphone_tab:
                self.microphone = gr.Audio(
                    sources=["microphone"],
                    type="filepath",
                    buttons=[],
                    label=say(Convert.MICROPHONE_LABEL),
                    elem_id="convert-microphone",
                )
            with gr.Tab(say(Convert.SPEECH), id="speech") as speech_tab:
                self._add_speech()
        self.range = gr.HTML(elem_id="convert-range")
        self.use_shift = gr.Button(visible=False, size="sm", elem_id="convert-use-shift")
        self.shift = gr.State(0)
        self.inputs = (self.kind, self.files, self.microphone)
        for kind, tab in zip(KINDS, (files_tab, microphone_tab, speech_tab), strict=True):
            tab.select(lambda kind=kind: kind, None, self.kind, show_progress="hidden")

    def _add_speech(self) -> None:
        say = self.page.say
        self.text = gr.Textbox(label=say(Convert.SPEECH_TEXT), lines=3, elem_id="convert-speech-text")
        with gr.Row():
            default = next(
                name for name in speech.VOICES if name.startswith("zh" if self.page.language == "zh" else "en")
            )
            voice = gr.Dropdown(
                choices=list(speech.VOICES),
                value=default,
                allow_custom_value=True,
                label=say(Convert.SPEECH_VOICE),
                elem_id="convert-speech-voice",
            )
            rate = gr.Slider(-50, 50, value=0, step=5, label=say(Convert.SPEECH_RATE), elem_id="convert-speech-rate")
        make = gr.Button(say(Convert.SPEECH_MAKE), elem_id="convert-speech-make")
        self.spoken = gr.Audio(
            label=say(Convert.SPEECH_RESULT), interactive=False, buttons=[], visible=False, elem_id="convert-spoken"
        )
        self.speech_state = gr.HTML(f'<p class="mild">{say(Convert.SPEECH_NOTE)}</p>', elem_id="convert-speech-state")
        make.click(self.page.guarded(self._speak), [self.text, voice, rate], [self.spoken, self.speech_state])

    def chosen(self, desk: Desk, values: Values) -> list[Path]:
        """The songs of the tab that is open."""
        kind = values[self.kind]
        if kind == "microphone":
            return [Path(values[self.microphone])] if values[self.microphone] else []
        if kind == "speech":
            return [desk.speech] if desk.speech is not None else []
        return [Path(file) for file in values[self.files] or []]

    def watch_range(self, voice: VoiceBox, trans: Any) -> None:
        """Say whether the song suits the voice, and offer the transposition that does."""

        def check(values: Values, request: gr.Request) -> tuple[Any, ...]:
            desk = Desk.of(self.page.studio, self.page.session(request))
            hidden = ("", gr.update(visible=False), 0)
            songs = self.chosen(desk, values)
            choice = desk.catalog().choices.get(values[voice.model] or "")
            config = config_of(choice) if choice is not None and choice.onnx is None else None
            known = trained_range(config, values[voice.speaker] or "") if config is not None else None
            if known is None or not songs:
                return hidden
            try:
                song = song_range(songs[0])
            except UserError:  # the conversion will say so
                return hidden
            if song is None:
                return hidden
            now = shifted(song, float(values[trans] or 0))
            text = Convert.RANGE_FITS if fits(now, known) else Convert.RANGE_LEAVES
            line = self.page.say(text, song=describe(now), voice=describe(known))
            if fits(now, known):
                return f'<p class="good">{line}</p>', gr.update(visible=False), 0
            shift = suggested_shift(song, known)
            label = self.page.say(Convert.USE_SHIFT, shift=shift)
            return f'<p class="warn">{line}</p>', gr.update(visible=True, value=label), shift

        inputs = {*self.inputs, voice.model, voice.speaker, trans}
        outputs = [self.range, self.use_shift, self.shift]
        changes = [self.files.change, self.microphone.change, self.spoken.change, voice.speaker.change, trans.change]
        gr.on(changes, self.page.guarded(check), inputs, outputs, show_progress="hidden", trigger_mode="always_last")
        self.use_shift.click(lambda shift: shift, self.shift, trans, show_progress="hidden")

    def _speak(self, text: str, voice: str, rate: float, request: gr.Request) -> tuple[Any, str]:
        desk = Desk.of(self.page.studio, self.page.session(request))
        target = desk.session.folder / "speech.mp3"
        try:
            speech.speak(text, voice, round(rate), target)
        except ImportError:
            return gr.skip(), f'<p class="warn">{self.page.say(Convert.SPEECH_MISSING)}</p>'
        except speech.Unreachable:
            return gr.skip(), f'<p class="warn">{self.page.say(Convert.SPEECH_OFFLINE)}</p>'
        desk.speech = target
        return gr.update(value=str(target), visible=True), f'<p class="mild">{self.page.say(Convert.SPEECH_NOTE)}</p>'
