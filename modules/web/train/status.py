"""How steps and their states look: HTML out of what the jobs say."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping

from modules.progress import format_seconds
from modules.web.page import Page, paragraph
from modules.web.train.jobs import Status, TrainingState
from modules.web.train.steps import NUMBERED, STEPS, Project

MESSAGE_LINES = 8  # of the log of a step that went wrong
EXPLAINED = (*NUMBERED, "index", "cluster", "train_diff", "release")  # steps with a note under their title
_LOOKS = {"done": "good", "failed": "bad", "some_failed": "warn", "stopped": "warn", "lost": "warn"}


def statuses(training: TrainingState, model: str) -> dict[str, Status]:
    """How all steps of a model are."""
    return {step: training.jobs.status(model, step) for step in STEPS}


def show_now(page: Page, training: TrainingState, model: str, states: Mapping[str, Status]) -> str:
    """What runs now, in one line and a bar."""
    others = [other for other in training.jobs.models() if other != model and training.jobs.is_held(other)]
    elsewhere = "".join(paragraph(_other(page, training, other)) for other in others)
    running = next((status for status in states.values() if status.state in ("running", "stopping")), None)
    if running is None:
        return _stepper(page, states) + _idle(page, training, model, states) + elsewhere
    title = f"{page.say(f'step.{running.step}')} · {html.escape(model)}"
    state = page.say(f"state.{running.state}")
    return (
        f'{_stepper(page, states)}<div class="prepare-now"><p><b>{title}</b> — {state}</p>{_bar(page, running)}'
        f"{page.note('prepare.lives-on')}</div>{elsewhere}"
    )


def _stepper(page: Page, states: Mapping[str, Status]) -> str:
    """The numbered steps side by side, each with how it is."""
    following = next_step(states)
    parts = []
    for step in NUMBERED:
        state = states[step].state
        look = "next" if step == following and not states[step].going else state
        title = page.say(f"step.{step}").partition(" · ")[2]
        current = ' aria-current="step"' if step == following else ""
        parts.append(f'<li class="{look}"{current} title="{page.say(f"state.{state}")}">{html.escape(title)}</li>')
    return f'<ol class="prepare-stepper">{"".join(parts)}</ol>'


def next_step(states: Mapping[str, Status]) -> str:
    """The numbered step that is to be run now: the first that is not done, or older than the one before."""
    undone = (
        step
        for step in NUMBERED
        if states[step].state not in ("done", "some_failed") or is_outdated(states[step], states)
    )
    return next(undone, NUMBERED[-1])


def _idle(page: Page, training: TrainingState, model: str, states: Mapping[str, Status]) -> str:
    """What is said where nothing runs: how the step that ended last went wrong, if it did."""
    ended = [status for status in states.values() if status.ended is not None and status.state != "skipped"]
    last = max(ended, key=lambda status: status.ended or 0, default=None)
    if last is None or last.state not in ("failed", "lost"):
        return page.note("prepare.idle", model=model)
    title = page.say("prepare.last-failed", step=page.say(f"step.{last.step}"), model=model)
    return paragraph(f"<b>{html.escape(title)}</b>", "bad") + _message(training, model, last)


def _message(training: TrainingState, model: str, status: Status) -> str:
    """The last lines of a step."""
    log = "\n".join(training.jobs.log(model, status.step)[-MESSAGE_LINES:])
    return f'<pre class="prepare-message">{html.escape(log)}</pre>'


def _other(page: Page, training: TrainingState, model: str) -> str:
    step = training.jobs.running_step(model) or ""
    title = page.say(f"step.{step}") if step in STEPS else step
    return page.say("prepare.other", model=html.escape(model), step=html.escape(title))


def _bar(page: Page, status: Status) -> str:
    parts = []
    if status.started is not None:
        parts.append(page.say("prepare.for", elapsed=format_seconds(max(0.0, time.time() - status.started))))
    share = None
    if status.progress is not None:
        share = status.progress.share
        parts.append(status.progress.text)
        if status.progress.left:
            parts.append(page.say("prepare.left", left=status.progress.left))
    bar = f'<i style="width: {100 * share:.1f}%"></i>' if share is not None else '<i class="unknown"></i>'
    return f'<div class="prepare-bar">{bar}</div>{paragraph(html.escape(" · ".join(parts)))}'


def show_step(page: Page, training: TrainingState, model: str, step: str, states: Mapping[str, Status]) -> str:
    """The head of a step: its title, what it is for, and how it is."""
    status = states[step]
    title = f"<h4>{page.say(f'step.{step}')}</h4>"
    project = Project(model)
    if step in EXPLAINED:
        title += page.note(f"step.{step}.note", dataset=project.dataset, logs=project.logs)
    shown = _state(page, training, model, status, states)
    return f'{title}<div data-state="{status.state}" data-started="{status.started or 0:.3f}">{shown}</div>'


def _state(page: Page, training: TrainingState, model: str, status: Status, states: Mapping[str, Status]) -> str:
    text = page.say(f"state.{status.state}")
    if status.state in ("running", "stopping"):
        return f"{paragraph(text)}{_bar(page, status)}"
    if status.ended is not None and status.started is not None:
        text += f" · {time.strftime('%Y-%m-%d %H:%M', time.localtime(status.ended))}"
        text += f" · {format_seconds(status.ended - status.started)}"
    lines = paragraph(html.escape(text), _LOOKS.get(status.state, "mild"))
    if is_outdated(status, states):
        lines += page.note("step.outdated", "warn")
    if status.state in ("failed", "some_failed"):
        lines += _message(training, model, status)
    return lines


def is_outdated(status: Status, states: Mapping[str, Status]) -> bool:
    """Whether a numbered step was done before the one that it builds on."""
    if status.step not in NUMBERED[1:] or status.state not in ("done", "some_failed", "stopped"):
        return False
    before = states[NUMBERED[NUMBERED.index(status.step) - 1]]
    if before.state not in ("done", "some_failed"):
        return False
    return (before.ended or 0) > (status.ended or 0)


def newest_log(training: TrainingState, model: str, states: Mapping[str, Status]) -> tuple[str, list[str]]:
    """The step that runs or ended last, and what it printed."""
    ran = [status for status in states.values() if status.started is not None]
    if not ran:
        return "", []
    last = max(ran, key=lambda status: (status.going, status.started or 0))
    return last.step, training.jobs.log(model, last.step)
