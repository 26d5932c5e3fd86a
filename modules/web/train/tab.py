"""The tab that prepares recordings and trains: recordings, numbered steps, curves and audio, a release."""

from __future__ import annotations

import html
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.web.page import Page
from modules.web.texts_prepare import Prepare, Steps
from modules.web.train.form import CONFIG_FIELDS, Form, change_config
from modules.web.train.jobs import PrepareDesk, Status
from modules.web.train.metrics import SAMPLES, newest, show_curves
from modules.web.train.recordings import add_recordings, list_speakers, show_report
from modules.web.train.runner import KILL_AT, STOP_NAME, read_stops
from modules.web.train.status import newest_log, show_now, show_step, statuses
from modules.web.train.steps import NUMBERED, STEPS, PrepareSettings, Project, arguments

TICK = 2.0  # seconds
DOUBLE_CLICK = 4.0  # seconds in which a second stop is taken for the first one
EXTRAS = ("index", "cluster", "train_diff")
SHOWN = ("resample", "lists", "features", "train", *EXTRAS, "release")  # steps with a head of their own
FIELDS = tuple(PrepareSettings.model_fields)
Seen = dict[str, Any]  # what a page shows already, so that it is not sent again


def build_prepare_tab(page: Page) -> None:
    """Add what is in the tab."""
    PrepareTab(page)


class PrepareTab:
    """Components, and what happens when they are touched."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.desk = PrepareDesk.of(page.studio)
        self.form = Form(page)
        self.heads: dict[str, gr.HTML] = {}
        self.commands: dict[str, gr.Textbox] = {}
        self.buttons: dict[str, gr.Button] = {}
        self._add_top()
        self._add_recordings()
        self._add_steps()
        self._add_watch()
        self._add_extras()
        self.seen = gr.State({})
        self._connect()

    # What there is

    def _add_top(self) -> None:
        say = self.page.say
        with gr.Row(equal_height=False):
            self.form.fields["model"] = gr.Dropdown(
                choices=self.desk.models(),
                value=None,
                label=say(Prepare.MODEL),
                info=say(Prepare.MODEL_HELP),
                allow_custom_value=True,
                elem_id="prepare-model",
                scale=1,
                min_width=280,
            )
            with gr.Column(scale=2, min_width=280):
                self.now = gr.HTML(elem_id="prepare-now")
                self.stop = gr.Button(say(Prepare.STOP), variant="stop", visible=False, elem_id="prepare-stop")

    def _add_recordings(self) -> None:
        say = self.page.say
        gr.HTML(f"<h3>{say(Prepare.RECORDINGS)}</h3>")
        with gr.Row(elem_classes="close"):
            self.form.fields["speakers"] = gr.CheckboxGroup(
                choices=[], label=say(Prepare.SPEAKERS), info=say(Prepare.SPEAKERS_HELP), elem_id="prepare-speakers"
            )
            self.refresh = gr.Button("⟳", elem_id="prepare-refresh", scale=0, min_width=44)
        self.no_speakers = gr.HTML(elem_id="prepare-no-speakers")
        with gr.Accordion(say(Prepare.UPLOAD), open=False, elem_id="prepare-upload-group"):
            self.upload_speaker = gr.Textbox(
                label=say(Prepare.UPLOAD_SPEAKER),
                info=say(Prepare.UPLOAD_SPEAKER_HELP),
                max_length=64,
                elem_id="prepare-upload-speaker",
            )
            self.upload = gr.File(file_count="multiple", label=say(Prepare.UPLOAD_FILES), elem_id="prepare-upload")
            gr.HTML(f'<p class="mild">{say(Prepare.CONSENT)}</p>')
            self.add = gr.Button(say(Prepare.UPLOAD_ADD), elem_id="prepare-upload-add")
            self.added = gr.HTML(elem_id="prepare-upload-result")
        self.buttons["report"] = gr.Button(say(Prepare.LOOK), elem_id="prepare-run-report")
        gr.HTML(f'<p class="mild">{say(Prepare.LOOK_HELP)}</p>')
        self.report = gr.HTML(elem_id="prepare-report")

    def _add_steps(self) -> None:
        say = self.page.say
        gr.HTML(f'<h3>{say(Prepare.STEPS)}</h3><p class="mild">{say(Prepare.STEPS_HELP)}</p>')
        self._add_step("resample", self.form.add_resample)
        self._add_step("lists", self.form.add_lists)
        self._add_step("features", self._add_features)
        self._add_step("train", self._add_training)
        self.run_all = gr.Button(say(Prepare.RUN_ALL), elem_id="prepare-run-all")
        with gr.Accordion(say(Prepare.LOG_OF), open=False, elem_id="prepare-log-group"):
            self.log = gr.HTML(elem_id="prepare-log")

    def _add_step(self, step: str, add_fields: Callable[[], None] | None = None) -> None:
        say = self.page.say
        with gr.Column(elem_classes="prepare-step", elem_id=f"prepare-step-{step}"):
            self.heads[step] = gr.HTML(f"<h4>{say(Steps.TITLES[step])}</h4>", elem_id=f"prepare-head-{step}")
            if add_fields is not None:
                add_fields()
            with gr.Row(elem_classes="close"):
                self.commands[step] = gr.Textbox(
                    label=say(Prepare.COMMAND),
                    interactive=False,
                    lines=1,
                    max_lines=6,
                    buttons=["copy"],
                    scale=5,
                    min_width=280,
                    elem_classes="prepare-command",
                    elem_id=f"prepare-command-{step}",
                )
                self.buttons[step] = gr.Button(
                    say(Prepare.RUN), variant="primary", elem_id=f"prepare-run-{step}", scale=1, min_width=100
                )

    def _add_features(self) -> None:
        self.form.add_features()
        with gr.Row(elem_classes="close"):
            self.weights = gr.HTML(elem_id="prepare-weights")
            self.buttons["weights"] = gr.Button(
                self.page.say(Prepare.FETCH), elem_id="prepare-run-weights", scale=0, min_width=120, visible=False
            )

    def _add_training(self) -> None:
        self.form.add_training()
        say = self.page.say
        with gr.Accordion(say(Prepare.CONFIG, path="config.json"), open=False, elem_id="prepare-config-group"):
            self.config_note = gr.HTML(elem_id="prepare-config-note")
            self.form.add_config()
            self.save_config = gr.Button(say(Prepare.SAVE), elem_id="prepare-config-save")

    def _add_watch(self) -> None:
        say = self.page.say
        gr.HTML(f"<h3>{say(Prepare.WATCH)}</h3>")
        self.curves = gr.HTML(elem_id="prepare-curves")
        self.listen = gr.Button(say(Prepare.LISTEN), elem_id="prepare-listen")
        gr.HTML(f'<p class="mild">{say(Prepare.LISTEN_HELP)}</p>')
        self.players: list[gr.Audio] = []
        for number in range(SAMPLES):
            with gr.Row():
                for side in ("recording", "model"):
                    self.players.append(
                        gr.Audio(
                            visible=False,
                            interactive=False,
                            buttons=["download"],
                            min_width=240,
                            elem_id=f"prepare-{side}-{number}",
                        )
                    )

    def _add_extras(self) -> None:
        gr.HTML(f"<h3>{self.page.say(Prepare.EXTRAS)}</h3>")
        self._add_step("release", self.form.add_release)
        for step in EXTRAS:
            self._add_step(step)

    # What happens

    def _connect(self) -> None:
        page, fields = self.page, self.form.fields
        self.inputs = [fields[name] for name in FIELDS]
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        live = [
            self.now, self.stop, self.report, self.curves, self.log, self.weights, self.buttons["weights"],
            *(self.heads[step] for step in SHOWN), fields["checkpoint"], self.config_note,
            *self.form.config_fields.values(), self.seen,
        ]  # fmt: skip
        self.live_count = len(live)
        watched = [fields[name] for name in ("model", "encoder", "predictor", "use_diff")]

        form = [fields[name] for name in FIELDS if name != "model"]
        filled = [*form, self.no_speakers]
        page.blocks.load(page.guarded(self._begin), None, fields["model"], **quiet)
        fields["model"].change(page.guarded(self._refill), fields["model"], filled, **quiet).then(
            page.guarded(self._tick), [*watched, self.seen], live, **quiet
        )
        gr.Timer(TICK).tick(
            page.guarded(self._tick), [*watched, self.seen], live, queue=False, trigger_mode="once", **quiet
        )
        gr.on(
            [component.change for component in self.inputs],
            page.guarded(self._show_commands),
            self.inputs,
            list(self.commands.values()),
            queue=False,
            **quiet,
        )
        self.refresh.click(page.guarded(self._list_speakers), None, [fields["speakers"], self.no_speakers], **quiet)
        self.add.click(
            page.guarded(self._add_uploads),
            [self.upload_speaker, self.upload, fields["speakers"]],
            [fields["speakers"], self.no_speakers, self.added, self.upload],
        )
        for step, button in self.buttons.items():
            button.click(page.guarded(self._runner(step)), [*self.inputs, self.seen], live, **quiet)
        self.run_all.click(page.guarded(self._runner(*NUMBERED)), [*self.inputs, self.seen], live, **quiet)
        self.stop.click(page.guarded(self._stop), [*watched, self.seen], live, **quiet)
        self.save_config.click(
            page.guarded(self._save_config), [fields["model"], *self.form.config_fields.values()], None, **quiet
        )
        self.listen.click(page.guarded(self._listen), fields["model"], self.players)

    def _begin(self) -> Any:
        return gr.update(choices=self.desk.models(), value=self.desk.first_model())

    def _refill(self, model: str) -> list[Any]:
        """The form as it was when the model was last worked on."""
        speakers = list_speakers(self.desk.raw)
        values = self.form.updates(self.desk.settings((model or "").strip()), speakers)
        updates = [
            self._speaker_update(speakers, values[name]) if name == "speakers" else values[name]
            for name in FIELDS
            if name != "model"
        ]
        return [*updates, self._speaker_note(speakers)]

    def _speaker_update(self, speakers: dict[str, int], chosen: list[str]) -> Any:
        say = self.page.say
        labels = [(say(Prepare.SPEAKER_FILES, name=name, count=count), name) for name, count in speakers.items()]
        return gr.update(choices=labels, value=chosen)

    def _speaker_note(self, speakers: dict[str, int]) -> str:
        return "" if speakers else f'<p class="warn">{self.page.say(Prepare.NO_SPEAKERS)}</p>'

    def _list_speakers(self) -> tuple[Any, str]:
        speakers = list_speakers(self.desk.raw)
        return self._speaker_update(speakers, list(speakers)), self._speaker_note(speakers)

    def _add_uploads(
        self, speaker: str, files: list[str] | None, chosen: list[str], request: gr.Request
    ) -> tuple[Any, ...]:
        if not files:
            raise UserError("no files are chosen", self.page.say(Prepare.UPLOAD_FILES), "choose recordings first")
        name = (speaker or "").strip()
        done = add_recordings(self.desk.raw, name, [Path(file) for file in files], self.page.studio.scratch)
        if done.refused:
            self.page.warn(f"not audio: {', '.join(done.refused)}")
        say = self.page.say
        text = say(Prepare.UPLOADED, count=done.added, speaker=html.escape(name))
        text += f" {say(Prepare.UPLOAD_SAME, count=done.same)}" if done.same else ""
        speakers = list_speakers(self.desk.raw)
        kept = [known for known in speakers if known in (chosen or []) or known == name]
        return (
            self._speaker_update(speakers, kept),
            self._speaker_note(speakers),
            f'<p class="good">{text}</p>',
            None,
        )

    def _settings(self, values: tuple[Any, ...]) -> PrepareSettings:
        return self.form.settings(dict(zip(FIELDS, values, strict=True)), list_speakers(self.desk.raw))

    def _show_commands(self, *values: Any) -> list[Any]:
        try:
            settings = self._settings(values)
        except UserError:  # while a field is being typed
            return [gr.skip() for _ in self.commands]
        return [f"python {shlex.join(arguments(step, settings))}" for step in self.commands]

    def _runner(self, *steps: str) -> Callable[..., list[Any]]:
        def run_steps(*values: Any) -> list[Any]:
            *fields, seen = values
            settings = self._settings(tuple(fields))
            if steps[0] in ("report", "resample") and not dict(zip(FIELDS, fields, strict=True))["speakers"]:
                raise UserError("no speaker is chosen", "dataset_raw/", "choose one, or upload recordings first")
            self.desk.start(settings, steps)
            return self._live(settings.model, settings.encoder, settings.predictor, settings.use_diff, seen)

        return run_steps

    def _stop(self, model: str, encoder: str, predictor: str, use_diff: bool, seen: Seen) -> list[Any]:
        name = (model or "").strip()
        asked = self.desk.jobs.folder(name) / STOP_NAME
        again_at_once = read_stops(asked) and time.time() - _time_of(asked) < DOUBLE_CLICK
        count = 1 if again_at_once else self.desk.jobs.stop(name)  # a double click must not lose what is trained
        if count == 1:
            gr.Info(self.page.say(Prepare.STOP_ASKED))
        elif not count:
            gr.Info(self.page.say(Prepare.NOTHING_TO_STOP))
        return self._live(model, encoder, predictor, use_diff, seen)

    def _tick(self, model: str, encoder: str, predictor: str, use_diff: bool, seen: Seen) -> list[Any]:
        try:
            return self._live(model, encoder, predictor, use_diff, seen)
        except UserError:  # a name is being typed that is none yet
            return [gr.skip()] * self.live_count

    def _live(self, model: str, encoder: str, predictor: str, use_diff: bool, seen: Seen) -> list[Any]:
        """All that changes by itself, what is on the page already left out."""
        model = (model or "").strip()
        desk, page = self.desk, self.page
        logs = desk.logs(model)
        states = statuses(desk, model)
        fresh: Seen = {}

        def once(name: str, value: Any, make: Callable[[Any], Any] = lambda value: value) -> Any:
            """``make(value)``, or nothing where the page shows ``value`` already."""
            fresh[name] = value
            return gr.skip() if seen.get(name, _NOTHING) == value else make(value)

        report = desk.home / Project(model).report
        there, missing, size = desk.missing_weights(encoder, predictor, use_diff)
        config_path = desk.config_path(model)
        config_time = config_path.stat().st_mtime if config_path.is_file() else 0.0
        config_new = seen.get("config") != [model, config_time]
        fresh["config"] = [model, config_time]
        values: list[Any] = [
            once("now", show_now(page, desk, model, states)),
            once("stop", self._stop_state(model, states), self._stop_button),
            once("report", [model, _time_of(report)], lambda _: show_report(page, report)),
            once("curves", [model, *newest(logs)], lambda _: show_curves(page, logs)),
            once("log", self._log(model, states)),
            once("weights", self._weights_note(there, missing, size)),
            once("fetch", bool(missing), lambda visible: gr.update(visible=visible)),
            *(once(f"head {step}", show_step(page, desk, model, step, states)) for step in SHOWN),
            once("checkpoints", self._checkpoints(model), lambda names: gr.update(choices=names)),
        ]
        values += self._config_values(model) if config_new else [gr.skip()] * (1 + len(CONFIG_FIELDS))
        return [*values, fresh]

    def _config_values(self, model: str) -> list[Any]:
        """The note above the fields of the config, and what is in them."""
        path = html.escape(str(Project(model).config))
        try:
            config = self.desk.config(model)
        except UserError as error:
            return [f'<p class="bad">{self.page.describe(error)}</p>', *self.form.config_values(None)]
        text = self.page.say(Prepare.CONFIG, path=path) if config else self.page.say(Prepare.CONFIG_MISSING)
        return [f'<p class="mild">{text}</p>', *self.form.config_values(config)]

    def _stop_state(self, model: str, states: dict[str, Status]) -> int | None:
        """How often a stop was asked for; None where nothing runs."""
        if not any(status.going for status in states.values()):
            return None
        return read_stops(self.desk.jobs.folder(model) / STOP_NAME)

    def _stop_button(self, asked: int | None) -> Any:
        labels = (Prepare.STOP, Prepare.STOP_AGAIN, Prepare.STOP_KILL)
        text = self.page.say(labels[min(asked or 0, KILL_AT - 1)])
        return gr.update(visible=asked is not None, value=text)

    def _log(self, model: str, states: dict[str, Status]) -> str:
        step, lines = newest_log(self.desk, model, states)
        title = f"<b>{self.page.say(Steps.TITLES[step])}</b>" if step else ""
        text = html.escape("\n".join(lines)) if lines else self.page.say(Prepare.NO_LOG)
        return f"{title}<pre>{text}</pre>"

    def _weights_note(self, there: list[str], missing: list[str], size: int) -> str:
        say = self.page.say
        if missing:
            return f'<p class="warn">{say(Prepare.WEIGHTS_MISSING, names=", ".join(missing), size=size)}</p>'
        return f'<p class="good">{say(Prepare.WEIGHTS_THERE, names=", ".join(there))}</p>' if there else ""

    def _checkpoints(self, model: str) -> list[str]:
        found = [path.name for path in self.desk.logs(model).glob("G_*.pth") if path.stem != "G_0"]
        steps = sorted((name for name in found if name[2:-4].isdigit()), key=lambda name: -int(name[2:-4]))
        return [*(["G_best.pth"] if "G_best.pth" in found or not found else []), *steps]

    def _save_config(self, model: str, *values: Any) -> None:
        model = (model or "").strip()
        config = self.desk.config(model)
        if config is None:
            raise UserError("there is no config yet", Project(model).config, self.page.say(Prepare.CONFIG_MISSING))
        change_config(config, dict(zip(CONFIG_FIELDS, values, strict=True))).save(self.desk.config_path(model))
        gr.Info(self.page.say(Prepare.SAVED, path=Project(model).config))

    def _listen(self, model: str, request: gr.Request) -> list[Any]:
        logs = self.desk.logs((model or "").strip())
        heard = self.desk.ear.listen(logs, self.page.session(request).folder) if logs.is_dir() else []
        if not heard:
            gr.Info(self.page.say(Prepare.NOTHING_TO_HEAR))
        return list(self._player_updates(heard))

    def _player_updates(self, heard: list[Any]) -> Iterator[Any]:
        say = self.page.say
        for number in range(SAMPLES):
            if number >= len(heard):
                yield from (gr.update(visible=False, value=None),) * 2
                continue
            pair = heard[number]
            recorded, sung = say(Prepare.RECORDED, number=number + 1), say(Prepare.SUNG, step=pair.step)
            yield gr.update(visible=True, value=str(pair.recorded), label=recorded)
            yield gr.update(visible=True, value=str(pair.sung), label=sung)


_NOTHING = object()


def _time_of(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0


assert set(SHOWN) < set(STEPS)
