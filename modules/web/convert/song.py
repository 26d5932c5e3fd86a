"""The box of the song: files, the microphone, or text that is spoken; and whether it suits the voice."""

from __future__ import annotations

import functools
import shutil
import threading
from pathlib import Path
from typing import Any

import gradio as gr

from modules.audio.io import AUDIO_EXTENSIONS
from modules.data.f0_ranges import Range, describe, fits, shifted, song_range, suggested_shift, trained_range
from modules.errors import UserError
from modules.web.catalog import config_of
from modules.web.convert import speech
from modules.web.convert.session import ConversionSession
from modules.web.convert.voice import VoiceBox
from modules.web.page import QUIET, Page, Updates, Values

KINDS = ("files", "microphone", "speech")
SAMPLE_SONG = Path(__file__).parents[3] / "demo" / "held_out" / "taro" / "scarborough_fair.flac"


class SongBox:
    """Components and what they do. ``inputs`` are read by ``chosen``."""

    def __init__(self, page: Page) -> None:
        self.page = page
        gr.HTML(f"<h3>{page.say('convert.song')}</h3>")
        self.kind = gr.State("files")
        with gr.Tabs(elem_id="convert-source"):
            with gr.Tab(page.say("convert.files"), id="files") as files_tab:
                self.files = page.field(
                    gr.File, "convert.files", file_count="multiple", file_types=sorted(AUDIO_EXTENSIONS), height=110
                )
                with gr.Row(elem_classes="close"):
                    gr.HTML(page.note("convert.files.note"))
                    self.sample = page.field(
                        gr.Button, "convert.try", size="sm", scale=0, min_width=120, visible=SAMPLE_SONG.is_file()
                    )
            with gr.Tab(page.say("convert.microphone-tab"), id="microphone") as microphone_tab:
                self.microphone = page.field(
                    gr.Audio, "convert.microphone", sources=["microphone"], type="filepath", buttons=[]
                )
            with gr.Tab(page.say("convert.speech-tab"), id="speech") as speech_tab:
                self._add_speech()
        self.range = page.field(gr.HTML, "convert.range")
        self.use_shift = page.field(gr.Button, "convert.use-shift", visible=False, size="sm")
        self.shift = gr.State(0)
        self.inputs = {self.kind, self.files, self.microphone}
        for kind, tab in zip(KINDS, (files_tab, microphone_tab, speech_tab), strict=True):
            tab.select(lambda kind=kind: kind, None, self.kind, **QUIET)

    def _add_speech(self) -> None:
        page = self.page
        text = page.field(gr.Textbox, "convert.speech-text", lines=3)
        with gr.Row():
            default = next((name for name in speech.VOICES if name.startswith(page.language)), speech.VOICES[0])
            voice = page.field(
                gr.Dropdown,
                "convert.speech-voice",
                choices=list(speech.VOICES),
                value=default,
                allow_custom_value=True,
            )
            rate = page.field(gr.Slider, "convert.speech-rate", minimum=-50, maximum=50, value=0, step=5)
        make = page.field(gr.Button, "convert.speech-make")
        self.spoken = page.field(gr.Audio, "convert.spoken", interactive=False, buttons=[], visible=False)
        self.speech_state = page.field(gr.HTML, "convert.speech-state", value=page.note("convert.speech-note"))
        make.click(page.guarded(self._speak), [text, voice, rate], [self.spoken, self.speech_state])

    def take_sample(self, values: Values, voice: VoiceBox, trans: Any, request: gr.Request) -> Updates:
        """The song that comes along, and the transposition that suits the voice."""
        conversion = self.page.session(request).conversion
        song = conversion.folder / SAMPLE_SONG.name
        shutil.copyfile(SAMPLE_SONG, song)
        trained = _trained_range(conversion, values[voice.model], values[voice.speaker])
        sung = _range_of([song]) if trained is not None else None
        shift = suggested_shift(sung, trained) if sung is not None and trained is not None else 0
        return {self.files: [str(song)], self.kind: "files", trans: shift}

    def chosen(self, conversion: ConversionSession, values: Values) -> list[Path]:
        """The songs of the tab that is open."""
        kind = values[self.kind]
        if kind == "microphone":
            return [Path(values[self.microphone])] if values[self.microphone] else []
        if kind == "speech":
            return [conversion.speech] if conversion.speech is not None else []
        return [Path(file) for file in values[self.files] or []]

    def watch_range(self, voice: VoiceBox, trans: Any) -> None:
        """Say whether the song suits the voice, and offer the transposition that does."""

        def check(values: Values, request: gr.Request) -> Updates:
            conversion = self.page.session(request).conversion
            trained = _trained_range(conversion, values[voice.model], values[voice.speaker])
            song = _range_of(self.chosen(conversion, values)) if trained is not None else None
            if trained is None or song is None:
                return {self.range: "", self.use_shift: gr.update(visible=False), self.shift: 0}
            return self._compare(song, trained, float(values[trans] or 0))

        inputs = {*self.inputs, voice.model, voice.speaker, trans}
        outputs = [self.range, self.use_shift, self.shift]
        changes = [self.files.change, self.microphone.change, self.spoken.change, voice.speaker.change, trans.change]
        gr.on(changes, self.page.guarded(check), inputs, outputs, trigger_mode="always_last", **QUIET)
        self.use_shift.click(lambda shift: shift, self.shift, trans, **QUIET)

    def _compare(self, song: Range, trained: Range, semitones: float) -> Updates:
        now = shifted(song, semitones)
        said = {"song": describe(now), "voice": describe(trained)}
        if fits(now, trained):
            line = self.page.note("convert.range-fits", "good", **said)
            return {self.range: line, self.use_shift: gr.update(visible=False), self.shift: 0}
        shift = suggested_shift(song, trained)
        return {
            self.range: self.page.note("convert.range-leaves", "warn", **said),
            self.use_shift: gr.update(visible=True, value=self.page.say("convert.use-shift.to", shift=shift)),
            self.shift: shift,
        }

    def _speak(self, text: str, voice: str, rate: float, request: gr.Request) -> Updates:
        conversion = self.page.session(request).conversion
        target = conversion.folder / "speech.mp3"
        try:
            speech.speak(text, voice, round(rate), target)
        except ImportError:
            return {self.speech_state: self.page.note("convert.speech-missing", "warn")}
        except speech.Unreachable:
            return {self.speech_state: self.page.note("convert.speech-offline", "warn")}
        conversion.speech = target
        return {
            self.spoken: gr.update(value=str(target), visible=True),
            self.speech_state: self.page.note("convert.speech-note"),
        }


def _trained_range(conversion: ConversionSession, model: str | None, speaker: str | None) -> Range | None:
    """What the config of a model says of a speaker; None where it says nothing."""
    entry = conversion.catalog().entries.get(model or "")
    config = config_of(entry) if entry is not None and entry.onnx is None else None
    return trained_range(config, speaker or "") if config is not None else None


def _range_of(songs: list[Path]) -> Range | None:
    try:
        return _range_of_file(songs[0], songs[0].stat().st_mtime_ns) if songs else None
    except (UserError, OSError):  # the conversion will say so
        return None


def _range_of_file(path: Path, written: int) -> Range | None:
    with _LISTENING:  # Praat keeps the server from its work: one song at a time, and each once
        return _listen(path, written)


_LISTENING = threading.Lock()


@functools.lru_cache(maxsize=256)
def _listen(path: Path, written: int) -> Range | None:
    return song_range(path)
