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
        return page.note("prepare.idle", model=model) + elsewhere
    title = f"{page.say(f'step.{running.step}')} · {html.escape(model)}"
    state = page.say(f"state.{running.state}")
    return (
        f'<div class="prepare-now"><p><b>{title}</b> — {state}</p>{_bar(page, running)}'
        f"{page.note('prepare.lives-on')}</div>{elsewhere}"
    )


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
        log = "\n".join(training.jobs.log(model, status.step)[-MESSAGE_LINES:])
        lines += f'<pre class="prepare-message">{html.escape(log)}</pre>'
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
