"""The tab that prepares recordings and trains: recordings, numbered steps, curves and audio, a release."""

from __future__ import annotations

import html
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from modules.errors import UserError
from modules.web.page import QUIET, Page, Updates, Values, paragraph
from modules.web.train.form import CONFIG_FIELDS, Form, change_config
from modules.web.train.jobs import Status
from modules.web.train.metrics import modified, show_curves
from modules.web.train.recordings import add_recordings, list_speakers, show_report
from modules.web.train.runner import KILL_AT, STOP_NAME, read_stops
from modules.web.train.samples import SAMPLES, Sample
from modules.web.train.status import newest_log, next_step, show_now, show_step, statuses
from modules.web.train.steps import NUMBERED, STEPS, PrepareSettings, Project, arguments

TICK = 2.0  # seconds
DOUBLE_CLICK = 4.0  # seconds in which a second stop is taken for the first one
EXTRAS = ("index", "cluster", "train_diff")
SHOWN = (*NUMBERED, *EXTRAS, "release")  # steps with a head of their own
WATCHED = ("model", "encoder", "predictor", "use_diff")  # fields that what is shown depends on
STOP_LABELS = ("prepare.stop", "prepare.stop-again", "prepare.stop-kill")  # by how often a stop was asked for


SHOW_COMMANDS = "on => { document.body.classList.toggle('show-commands', on); }"


class TrainTab:
    """Components, and what happens when they are touched."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.training = page.state.training
        self.form = Form(page)
        self.heads: dict[str, gr.HTML] = {}
        self.commands: dict[str, gr.Textbox] = {}
        self.buttons: dict[str, gr.Button] = {}
        self._add_top()
        self._add_recordings()
        self._add_steps()
        self._add_watch()
        self._add_extras()
        self.seen = gr.State({})  # what the page shows already, so that it is not sent again
        self._connect()

    # Components

    def _add_top(self) -> None:
        page = self.page
        with gr.Row(equal_height=False):
            self.form.fields["model"] = page.field(
                gr.Dropdown,
                "prepare.model",
                choices=self.training.models(),
                value=None,
                allow_custom_value=True,
                scale=1,
                min_width=280,
            )
            with gr.Column(scale=2, min_width=280):
                self.now = page.field(gr.HTML, "prepare.now")
                self.stop = page.field(gr.Button, "prepare.stop", variant="stop", visible=False)

    def _add_recordings(self) -> None:
        page = self.page
        gr.HTML(f"<h3>{page.say('prepare.recordings')}</h3>")
        with gr.Row(elem_classes="close"):
            self.form.fields["speakers"] = page.field(gr.CheckboxGroup, "prepare.speakers", choices=[])
            self.refresh = page.field(gr.Button, "prepare.refresh", value="⟳", scale=0, min_width=44)
        self.no_speakers = page.field(gr.HTML, "prepare.no-speakers")
        with page.field(gr.Accordion, "prepare.upload-group", open=False):
            self.upload_speaker = page.field(gr.Textbox, "prepare.upload-speaker", max_length=64)
            self.upload = page.field(gr.File, "prepare.upload", file_count="multiple")
            gr.HTML(page.note("prepare.consent"))
            self.add = page.field(gr.Button, "prepare.upload-add")
            self.added = page.field(gr.HTML, "prepare.upload-result")
        self.buttons["report"] = page.field(gr.Button, "prepare.run-report")
        gr.HTML(page.note("prepare.run-report.note"))
        self.report = page.field(gr.HTML, "prepare.report")

    def _add_steps(self) -> None:
        page = self.page
        gr.HTML(f"<h3>{page.say('prepare.steps')}</h3>{page.note('prepare.steps.note')}")
        self._add_step("resample", self.form.add_resample)
        self._add_step("lists", self.form.add_lists)
        self._add_step("features", self._add_features)
        self._add_step("train", self._add_training)
        self.run_all = page.field(gr.Button, "prepare.run-all")
        show_commands = page.field(gr.Checkbox, "prepare.show-commands", value=False, container=False)
        show_commands.change(None, show_commands, js=SHOW_COMMANDS)
        with page.field(gr.Accordion, "prepare.log-group", open=False):
            self.log = page.field(gr.HTML, "prepare.log")

    def _add_step(self, step: str, add_fields: Callable[[], None] | None = None) -> None:
        page = self.page
        with page.field(gr.Column, f"prepare.step-{step}", elem_classes="prepare-step"):
            title = f"<h4>{page.say(f'step.{step}')}</h4>"
            self.heads[step] = page.field(gr.HTML, f"prepare.head-{step}", value=title)
            if add_fields is not None:
                add_fields()
            with gr.Row(elem_classes="close"):
                self.commands[step] = page.field(
                    gr.Textbox,
                    f"prepare.command-{step}",
                    "prepare.command",
                    interactive=False,
                    lines=1,
                    max_lines=6,
                    buttons=["copy"],
                    scale=5,
                    min_width=280,
                    elem_classes="prepare-command",
                )
                self.buttons[step] = page.field(gr.Button, f"prepare.run-{step}", "prepare.run", scale=0, min_width=100)

    def _add_features(self) -> None:
        page = self.page
        self.form.add_features()
        with gr.Row(elem_classes="close"):
            self.weights = page.field(gr.HTML, "prepare.weights")
            self.buttons["weights"] = page.field(
                gr.Button, "prepare.run-weights", scale=0, min_width=120, visible=False
            )

    def _add_training(self) -> None:
        page = self.page
        self.form.add_training()
        title = page.say("prepare.config", path="config.json")
        with page.field(gr.Accordion, "prepare.config-group", label=title, open=False):
            self.config_note = page.field(gr.HTML, "prepare.config-note")
            self.form.add_config()
            self.save_config = page.field(gr.Button, "prepare.config-save")

    def _add_watch(self) -> None:
        page = self.page
        gr.HTML(f"<h3>{page.say('prepare.watch')}</h3>")
        self.curves = page.field(gr.HTML, "prepare.curves")
        self.listen = page.field(gr.Button, "prepare.listen")
        gr.HTML(page.note("prepare.listen.note"))
        player: dict[str, Any] = {"visible": False, "interactive": False, "buttons": ["download"], "min_width": 240}
        self.players: list[tuple[gr.Audio, gr.Audio]] = []  # (recording, model)
        for number in range(SAMPLES):
            with gr.Row():
                recording = page.field(gr.Audio, f"prepare.recording-{number}", **player)
                self.players.append((recording, page.field(gr.Audio, f"prepare.model-{number}", **player)))

    def _add_extras(self) -> None:
        gr.HTML(f"<h3>{self.page.say('prepare.extras')}</h3>")
        self._add_step("release", self.form.add_release)
        for step in EXTRAS:
            self._add_step(step)

    # Events

    def _connect(self) -> None:
        page, fields = self.page, self.form.fields
        inputs = {*fields.values()}
        live = [
            self.now, self.stop, self.report, self.curves, self.log, self.weights, self.buttons["weights"],
            *(self.heads[step] for step in SHOWN), *(self.buttons[step] for step in NUMBERED),
            fields["checkpoint"], self.config_note,
            *self.form.config_fields.values(), self.seen,
        ]  # fmt: skip
        watched = {*(fields[name] for name in WATCHED), self.seen}
        filled = [*(component for name, component in fields.items() if name != "model"), self.no_speakers]

        page.blocks.load(page.guarded(self._begin), None, fields["model"], **QUIET)
        fields["model"].change(page.guarded(self._refill), fields["model"], filled, **QUIET).then(
            page.guarded(self._tick), watched, live, **QUIET
        )
        gr.Timer(TICK).tick(page.guarded(self._tick), watched, live, queue=False, trigger_mode="once", **QUIET)
        gr.on(
            [component.change for component in fields.values()],
            page.guarded(self._show_commands),
            inputs,
            [*self.commands.values()],
            queue=False,
            **QUIET,
        )
        self.refresh.click(page.guarded(self._list_speakers), None, [fields["speakers"], self.no_speakers], **QUIET)
        self.add.click(
            page.guarded(self._add_uploads),
            [self.upload_speaker, self.upload, fields["speakers"]],
            [fields["speakers"], self.no_speakers, self.added, self.upload],
        )
        for step, button in self.buttons.items():
            button.click(page.guarded(self._runner(step)), {*inputs, self.seen}, live, **QUIET)
        self.run_all.click(page.guarded(self._runner(*NUMBERED)), {*inputs, self.seen}, live, **QUIET)
        self.stop.click(page.guarded(self._stop), watched, live, **QUIET)
        figures = {fields["model"], *self.form.config_fields.values()}
        self.save_config.click(page.guarded(self._save_config), figures, None, **QUIET)
        players = [player for pair in self.players for player in pair]
        self.listen.click(page.guarded(self._listen), fields["model"], players)

    def _begin(self) -> Any:
        return gr.update(choices=self.training.models(), value=self.training.first_model())

    def _refill(self, model: str) -> Updates:
        """The form as it was when the model was last worked on."""
        speakers = list_speakers(self.training.raw)
        settings = self.training.settings((model or "").strip())
        updates = {
            component: getattr(settings, name) for name, component in self.form.fields.items() if name != "model"
        }
        return {**updates, **self._speaker_updates(speakers, self.form.chosen_speakers(settings, speakers))}

    def _speaker_updates(self, speakers: dict[str, int], chosen: list[str]) -> Updates:
        say = self.page.say
        labels = [(say("prepare.speaker-files", name=name, count=count), name) for name, count in speakers.items()]
        return {
            self.form.fields["speakers"]: gr.update(choices=labels, value=chosen),
            self.no_speakers: "" if speakers else self.page.note("prepare.no-recordings", "warn"),
        }

    def _list_speakers(self) -> Updates:
        speakers = list_speakers(self.training.raw)
        return self._speaker_updates(speakers, list(speakers))

    def _add_uploads(self, speaker: str, files: list[str] | None, chosen: list[str], request: gr.Request) -> Updates:
        say = self.page.say
        if not files:
            raise UserError("no files are chosen", say("prepare.upload"), "choose recordings first")
        name = (speaker or "").strip()
        uploads = self.page.state.folders.scratch_dir
        done = add_recordings(self.training.raw, name, [Path(file) for file in files], uploads)
        if done.refused:
            self.page.warn(f"not audio: {', '.join(done.refused)}")
        text = say("prepare.uploaded", count=done.added, speaker=name)
        text += f" {say('prepare.upload-same', count=done.same)}" if done.same else ""
        speakers = list_speakers(self.training.raw)
        kept = [known for known in speakers if known in (chosen or []) or known == name]
        return {
            **self._speaker_updates(speakers, kept),
            self.added: paragraph(html.escape(text), "good"),
            self.upload: None,
        }

    def _settings(self, values: Values) -> PrepareSettings:
        return self.form.settings(self.form.read(values), list_speakers(self.training.raw))

    def _show_commands(self, values: Values) -> Updates:
        try:
            settings = self._settings(values)
        except UserError:  # while a field is being typed
            return {component: gr.skip() for component in self.commands.values()}
        return {
            component: f"python {shlex.join(arguments(step, settings))}" for step, component in self.commands.items()
        }

    def _runner(self, *steps: str) -> Callable[[Values], Updates]:
        def run_steps(values: Values) -> Updates:
            settings = self._settings(values)
            if steps[0] in ("report", "resample") and not values[self.form.fields["speakers"]]:
                raise UserError("no speaker is chosen", "dataset_raw/", "choose one, or upload recordings first")
            self.training.start(settings, steps)
            return self._live(values)

        return run_steps

    def _model(self, values: Values) -> str:
        return (values[self.form.fields["model"]] or "").strip()

    def _stop(self, values: Values) -> Updates:
        model = self._model(values)
        asked = self.training.jobs.folder(model) / STOP_NAME
        again_at_once = read_stops(asked) and time.time() - _time_of(asked) < DOUBLE_CLICK
        count = 1 if again_at_once else self.training.jobs.stop(model)  # a double click must not lose what is trained
        if count == 1:
            gr.Info(self.page.say("prepare.stop-asked"))
        elif not count:
            gr.Info(self.page.say("prepare.nothing-to-stop"))
        return self._live(values)

    def _tick(self, values: Values) -> Updates:
        try:
            return self._live(values)
        except UserError:  # a name is being typed that is none yet
            return {self.seen: gr.skip()}

    def _live(self, values: Values) -> Updates:
        """All that changes by itself, what is on the page already left out."""
        page, training, model = self.page, self.training, self._model(values)
        seen, fresh, updates = values[self.seen], {}, {}

        def show(component: Any, value: Any, make: Callable[[Any], Any] = lambda value: value) -> None:
            """Update a component by ``make(value)``, unless the page shows ``value`` already."""
            fresh[component.elem_id] = value
            if seen.get(component.elem_id, _NOTHING) != value:
                updates[component] = make(value)

        logs, states = training.logs(model), statuses(training, model)
        report = training.folders.work_dir / Project(model).report
        encoder, predictor, use_diff = (values[self.form.fields[name]] for name in WATCHED[1:])
        there, missing, size = training.missing_weights(encoder, predictor, use_diff)
        show(self.now, show_now(page, training, model, states))
        show(self.stop, self._stop_state(model, states), self._stop_button)
        show(self.report, [model, _time_of(report)], lambda _: show_report(page, report))
        show(self.curves, [model, *modified(logs)], lambda _: show_curves(page, logs))
        show(self.log, self._log(model, states))
        show(self.weights, self._weights_note(there, missing, size))
        show(self.buttons["weights"], bool(missing), lambda visible: gr.update(visible=visible))
        for step in SHOWN:
            show(self.heads[step], show_step(page, training, model, step, states))
        following = next_step(states)
        for step in NUMBERED:
            show(self.buttons[step], step == following, lambda on: gr.update(variant="primary" if on else "secondary"))
        show(self.form.fields["checkpoint"], self._checkpoints(model), lambda names: gr.update(choices=names))
        config_written = [model, _time_of(training.config_path(model))]
        if seen.get("config") != config_written:
            updates |= self._config_updates(model)
        fresh["config"] = config_written
        return {**updates, self.seen: fresh}

    def _config_updates(self, model: str) -> Updates:
        """The note above the fields of the config, and what is in them."""
        try:
            config = self.training.config(model)
        except UserError as error:
            note = paragraph(self.page.describe(error), "bad")
            return {self.config_note: note, **self.form.config_updates(None)}
        known = self.page.note("prepare.config", path=Project(model).config)
        note = known if config else self.page.note("prepare.config-missing")
        return {self.config_note: note, **self.form.config_updates(config)}

    def _stop_state(self, model: str, states: dict[str, Status]) -> int | None:
        """How often a stop was asked for; None where nothing runs."""
        if not any(status.going for status in states.values()):
            return None
        return read_stops(self.training.jobs.folder(model) / STOP_NAME)

    def _stop_button(self, asked: int | None) -> Any:
        text = self.page.say(STOP_LABELS[min(asked or 0, KILL_AT - 1)])
        return gr.update(visible=asked is not None, value=text)

    def _log(self, model: str, states: dict[str, Status]) -> str:
        step, lines = newest_log(self.training, model, states)
        title = f"<b>{self.page.say(f'step.{step}')}</b>" if step else ""
        text = html.escape("\n".join(lines)) if lines else self.page.say("prepare.no-log")
        return f"{title}<pre>{text}</pre>"

    def _weights_note(self, there: list[str], missing: list[str], size: int) -> str:
        if missing:
            return self.page.note("prepare.weights-missing", "warn", names=", ".join(missing), size=size)
        return self.page.note("prepare.weights-there", "good", names=", ".join(there)) if there else ""

    def _checkpoints(self, model: str) -> list[str]:
        found = [path.name for path in self.training.logs(model).glob("G_*.pth") if path.stem != "G_0"]
        steps = sorted((name for name in found if name[2:-4].isdigit()), key=lambda name: -int(name[2:-4]))
        return [*(["G_best.pth"] if "G_best.pth" in found or not found else []), *steps]

    def _save_config(self, values: Values) -> None:
        model = self._model(values)
        config = self.training.config(model)
        if config is None:
            raise UserError("there is no config yet", Project(model).config, self.page.say("prepare.config-missing"))
        figures = {name: values[self.form.config_fields[name]] for name in CONFIG_FIELDS}
        change_config(config, figures).save(self.training.config_path(model))
        gr.Info(self.page.say("prepare.config-saved", path=Project(model).config))

    def _listen(self, model: str, request: gr.Request) -> Updates:
        logs = self.training.logs((model or "").strip())
        samples = self.training.samples.newest(logs, self.page.session(request).folder) if logs.is_dir() else []
        if not samples:
            gr.Info(self.page.say("prepare.no-samples"))
        return self._player_updates(samples)

    def _player_updates(self, samples: Sequence[Sample]) -> Updates:
        say = self.page.say
        updates: Updates = {player: gr.update(visible=False, value=None) for pair in self.players for player in pair}
        for number, (sample, (recording, model)) in enumerate(zip(samples, self.players, strict=False), 1):
            recorded, sung = say("prepare.recorded", number=number), say("prepare.sung", step=sample.step)
            updates[recording] = gr.update(visible=True, value=str(sample.recorded), label=recorded)
            updates[model] = gr.update(visible=True, value=str(sample.sung), label=sung)
        return updates


_NOTHING = object()


def _time_of(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0


assert set(SHOWN) < set(STEPS)
