"""How steps and their states look: HTML out of what the jobs say."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping

from modules.progress import format_seconds
from modules.web.page import Page
from modules.web.texts_prepare import Prepare, Steps
from modules.web.train.jobs import PrepareDesk, Status
from modules.web.train.steps import NUMBERED, STEPS, Project

MESSAGE_LINES = 8  # of the log of a step that went wrong
_GOOD = ("done",)
_BAD = ("failed",)


def statuses(desk: PrepareDesk, model: str) -> dict[str, Status]:
    """How all steps of a model are."""
    return {step: desk.jobs.status(model, step) for step in STEPS}


def show_now(page: Page, desk: PrepareDesk, model: str, states: Mapping[str, Status]) -> str:
    """What runs now, in one line and a bar."""
    others = [other for other in desk.jobs.models() if other != model and desk.jobs.is_held(other)]
    elsewhere = "".join(f'<p class="mild">{_other(page, desk, other)}</p>' for other in others)
    running = next((status for status in states.values() if status.state in ("running", "stopping")), None)
    if running is None:
        return f'<p class="mild">{page.say(Prepare.IDLE, model=html.escape(model))}</p>{elsewhere}'
    title = f"{page.say(Steps.TITLES[running.step])} · {html.escape(model)}"
    state = page.say(Steps.STATES[running.state])
    lives_on = page.say(Prepare.LIVES_ON)
    return (
        f'<div class="prepare-now"><p><b>{title}</b> — {state}</p>{_bar(page, running)}'
        f'<p class="mild">{lives_on}</p></div>{elsewhere}'
    )


def _other(page: Page, desk: PrepareDesk, model: str) -> str:
    step = desk.jobs.running_step(model) or ""
    title = page.say(Steps.TITLES[step]) if step in Steps.TITLES else step
    return page.say(Prepare.OTHER, model=html.escape(model), step=html.escape(title))


def _bar(page: Page, status: Status) -> str:
    parts = []
    if status.started is not None:
        parts.append(page.say(Prepare.FOR, elapsed=format_seconds(max(0.0, time.time() - status.started))))
    share = None
    if status.progress is not None:
        share = status.progress.share
        parts.append(status.progress.text)
        if status.progress.left:
            parts.append(page.say(Prepare.LEFT, left=status.progress.left))
    bar = f'<i style="width: {100 * share:.1f}%"></i>' if share is not None else '<i class="unknown"></i>'
    return f'<div class="prepare-bar">{bar}</div><p class="mild">{html.escape(" · ".join(parts))}</p>'


def show_step(page: Page, desk: PrepareDesk, model: str, step: str, states: Mapping[str, Status]) -> str:
    """The head of a step: its title, what it is for, and how it is."""
    status = states[step]
    title = f"<h4>{page.say(Steps.TITLES[step])}</h4>"
    project = Project(model)
    if step in Steps.HELP:
        places = {"dataset": html.escape(str(project.dataset)), "logs": html.escape(str(project.logs))}
        title += f'<p class="mild">{page.say(Steps.HELP[step], **places)}</p>'
    shown = _state(page, desk, model, status, states)
    return f'{title}<div data-state="{status.state}" data-started="{status.started or 0:.3f}">{shown}</div>'


def _state(page: Page, desk: PrepareDesk, model: str, status: Status, states: Mapping[str, Status]) -> str:
    text = page.say(Steps.STATES[status.state])
    if status.state in ("running", "stopping"):
        return f'<p class="mild">{text}</p>{_bar(page, status)}'
    if status.ended is not None and status.started is not None:
        text += f" · {time.strftime('%Y-%m-%d %H:%M', time.localtime(status.ended))}"
        text += f" · {format_seconds(status.ended - status.started)}"
    look = "good" if status.state in _GOOD else "bad" if status.state in _BAD else "mild"
    if status.state in ("some_failed", "stopped", "lost"):
        look = "warn"
    lines = f'<p class="{look}">{html.escape(text)}</p>'
    if is_outdated(status, states):
        lines += f'<p class="warn">{page.say(Steps.OUTDATED)}</p>'
    if status.state in ("failed", "some_failed"):
        log = "\n".join(desk.jobs.log(model, status.step)[-MESSAGE_LINES:])
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


def newest_log(desk: PrepareDesk, model: str, states: Mapping[str, Status]) -> tuple[str, list[str]]:
    """The step that runs or ended last, and what it printed."""
    ran = [status for status in states.values() if status.started is not None]
    if not ran:
        return "", []
    last = max(ran, key=lambda status: (status.going, status.started or 0))
    return last.step, desk.jobs.log(model, last.step)
