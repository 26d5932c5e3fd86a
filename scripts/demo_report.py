"""The figures, pictures and the page that scripts/demo.py leaves."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from modules.files import write_text

if TYPE_CHECKING:
    from modules.evaluation import Pair, Recording
    from modules.evaluation.melody import Melody

TEMPLATE = Path(__file__).with_name("demo_report.html")
PRETRAIN = Path(__file__).resolve().parent.parent / "pretrain"
REFERENCE_PREDICTOR = "pm"  # of both sides; another one than the conversion uses. dio halves what young models sing
GOOD_CORRELATION, GOOD_CENTS = 0.95, 25.0
DISTANCE_KEY = "val/mel_distance"  # of metrics.jsonl, as train.py writes it
LOSS_LABELS = {
    "loss/g/mel": ("mel (weighted)", "#c05621"),
    "loss/g/fm": ("feature matching", "#2b6cb0"),
    "loss/g/kl": ("KL", "#2f855a"),
    "loss/d/total": ("discriminator", "#6b46c1"),
}
BEGIN = "A small model was trained on"
BEGIN_WITH_BASE = "The base model that comes along sang a song at once. Then it was trained on"
SECTION = """
<section>
<h2>$stage: $source_speaker &rarr; $target_speaker, $song</h2>
<div class="players">
<figure><figcaption>before: $source_speaker sings</figcaption>$source_audio</figure>
<figure><figcaption>after: $target_speaker sings it</figcaption>$result_audio</figure>
</div>
<p>$verdict</p>
<p>$moved $length The conversion took $seconds s, loading the models included.</p>
<img src="$picture" alt="mel spectrograms of source and result, and both pitch curves">
</section>
"""


@dataclass(frozen=True)
class Conversion:
    """A held-out song and what the model made of it."""

    source_speaker: str
    target_speaker: str
    source: Path
    result: Path
    semitones: int  # by which the song was moved
    seconds: float  # the conversion took, loading included
    with_base: bool = False  # by the base model as it is, before any training

    @property
    def name(self) -> str:
        return f"{'base_' if self.with_base else ''}{self.source_speaker}_to_{self.target_speaker}"

    def as_pair(self) -> Pair:
        """As the measures of quality take it."""
        from modules.evaluation import Pair

        return Pair(self.source, self.result, self.target_speaker, self.source_speaker, self.semitones)

    @property
    def stage(self) -> str:
        return "At once, with the base model" if self.with_base else "After training"


@dataclass(frozen=True)
class Likeness:
    """Cosines of speaker vectors: of a result and two singers. NaN where there are no recordings to compare with."""

    to_target: float
    to_source: float


@dataclass(frozen=True)
class Step:
    """A command of the demo and how long it took."""

    title: str
    command: str
    seconds: float


@dataclass(frozen=True)
class Training:
    """What the rows of metrics.jsonl come to."""

    steps: int
    seconds: float
    first_distance: float
    last_distance: float


def draw_training(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The held-out mel distance and the losses over the steps, as a PNG."""
    from matplotlib.figure import Figure

    from modules.evaluation.pictures import RESULT_COLOUR, save_figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    distances = series(rows, DISTANCE_KEY)
    left.plot(*zip(*distances, strict=True), "o-", color=RESULT_COLOUR, markersize=4)
    left.set_title("held-out mel distance (lower is better)", loc="left", fontsize=11)
    left.set_ylim(bottom=0)
    for key, (label, colour) in LOSS_LABELS.items():
        points = series(rows, key)
        if points:
            right.plot(*zip(*points, strict=True), label=label, color=colour, linewidth=1.4)
    right.set_title("losses of training", loc="left", fontsize=11)
    right.set_yscale("log")
    if right.lines:
        right.legend(fontsize=9)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def series(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """The steps and values of one key of metrics.jsonl."""
    return [(int(row["step"]), float(row[key])) for row in rows if key in row]


def summarise_training(rows: Sequence[Mapping[str, Any]]) -> Training:
    """Steps, seconds and the held-out mel distance at both ends of a run."""
    distances = series(rows, DISTANCE_KEY)
    return Training(
        steps=max(int(row["step"]) for row in rows),
        seconds=max(float(row.get("seconds", 0)) for row in rows),
        first_distance=distances[0][1],
        last_distance=distances[-1][1],
    )


def measure_conversion(conversion: Conversion, out_dir: Path) -> tuple[Melody, str]:
    """Compare source and result, draw them into ``out_dir``; returns the figures and the section of the page."""
    from modules.audio import audio_info
    from modules.evaluation import Recording
    from modules.evaluation.melody import compare_melodies
    from modules.evaluation.pictures import audio_tag, draw_pair, picture_uri
    from modules.f0 import get_predictor

    predictor = get_predictor(REFERENCE_PREDICTOR)
    source, result = Recording.load(conversion.source), Recording.load(conversion.result)
    contours = source.contour(predictor), result.contour(predictor)
    melody = compare_melodies(*contours, conversion.semitones)
    picture = out_dir / f"{conversion.name}.png"
    titles = f"source: {conversion.source_speaker} sings", f"result: {conversion.target_speaker} sings it"
    draw_pair((source.audio, result.audio), titles, contours, conversion.semitones, picture)
    section = Template(SECTION).substitute(
        stage=conversion.stage,
        source_speaker=html.escape(conversion.source_speaker),
        target_speaker=html.escape(conversion.target_speaker),
        song=html.escape(conversion.source.stem),
        source_audio=audio_tag(source.audio),
        result_audio=audio_tag(result.audio),
        picture=picture_uri(picture),
        verdict=html.escape(describe_melody(melody)),
        moved=html.escape(describe_move(conversion)),
        length=html.escape(describe_lengths(source, result, audio_info(conversion.source).sample_rate)),
        seconds=f"{conversion.seconds:.0f}",
    )
    return melody, section


def describe_melody(melody: Melody) -> str:
    """What the figures of a melody mean."""
    if melody.frames < 2:
        return "The result has no pitch to compare: the model has not learned to sing yet."
    good = melody.correlation > GOOD_CORRELATION and melody.median_cents < GOOD_CENTS
    words = "The result follows the melody" if good else "The result does not follow the melody closely yet"
    return (
        f"{words}: the correlation of the two pitch curves is {melody.correlation:.3f} (1 is perfect), and half of the "
        f"time the result is within {melody.median_cents:.0f} cents of the wanted pitch (100 cents are a semitone). "
        f"On {melody.agreement:.0%} of the song both agree on whether there is a pitch at all."
    )


class Likenesses:
    """Tells how alike singers sound, where the speaker encoder's weights are in pretrain/.

    Args:
        recordings: what each speaker has sung for the training.
    """

    def __init__(self, recordings: Mapping[str, Sequence[Path]]) -> None:
        from modules.evaluation import NotMeasured, Tools, Voices
        from modules.evaluation.speaker import SpeakerSimilarity
        from modules.f0 import get_predictor

        self.metric: SpeakerSimilarity | None = None
        with contextlib.suppress(NotMeasured):
            tools = Tools(get_predictor(REFERENCE_PREDICTOR), Voices(recordings), pretrain_dir=PRETRAIN)
            self.metric = SpeakerSimilarity(tools)

    def compare(self, conversion: Conversion) -> Likeness | None:
        """How near a result is to both singers; None where that cannot be measured."""
        from modules.evaluation import Case, Recording

        if self.metric is None:
            return None
        recordings = Recording.load(conversion.source), Recording.load(conversion.result)
        case = Case(conversion.as_pair(), *recordings, conversion.semitones)
        values = self.metric.measure(case).values
        return Likeness(values["similarity_target"], values["similarity_source"])


def describe_likeness(likeness: Likeness | None) -> str:
    """What the figures of a likeness mean; empty where nothing was measured."""
    if likeness is None:
        return ""
    known = {"target": likeness.to_target, "source": likeness.to_source}
    shown = [f"{value:.2f} to the {name} singer" for name, value in known.items() if value == value]
    return f"Likeness of the voice (1 is the same): {', '.join(shown)}." if shown else ""


def figures_table(figures: Sequence[tuple[Conversion, Melody, Likeness | None]]) -> str:
    """The rows of the table of figures."""
    rows = []
    for conversion, melody, likeness in figures:
        values = [melody.median_cents, melody.correlation, melody.agreement]
        values += [likeness.to_target, likeness.to_source] if likeness else [float("nan")] * 2
        formats = ("{:.0f}", "{:.3f}", "{:.0%}", "{:.2f}", "{:.2f}")
        pairs = zip(formats, values, strict=True)
        cells = [form.format(value) if value == value else "&ndash;" for form, value in pairs]
        who = f"{html.escape(conversion.source_speaker)} &rarr; {html.escape(conversion.target_speaker)}"
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f"<tr><td>{conversion.stage}</td><td>{who}</td>{numbers}</tr>")
    return "\n".join(rows)


def describe_move(conversion: Conversion) -> str:
    """Why the song was moved."""
    if conversion.semitones == 0:
        return f"{conversion.target_speaker} sings at the same height, so the song was not moved."
    direction = "higher" if conversion.semitones > 0 else "lower"
    return (
        f"{conversion.target_speaker} sings {direction}, so the song was moved by {conversion.semitones:+d} semitones "
        f"(-t {conversion.semitones})."
    )


def describe_lengths(source: Recording, result: Recording, source_rate: int) -> str:
    """Lengths of both, in samples where they differ."""
    from modules.evaluation import RATE

    if len(source.audio) == len(result.audio):
        return f"{source.seconds:.2f} s in, {result.seconds:.2f} s out: the same to the sample."
    resampled = f" (the source has {source_rate} Hz)" if source_rate != RATE else ""
    return f"{len(source.audio)} samples in{resampled}, {len(result.audio)} samples out."


def write_page(
    path: Path,
    *,
    voices: str,
    rows: Sequence[Mapping[str, Any]],
    sections: Sequence[str],
    figures: Sequence[tuple[Conversion, Melody, Likeness | None]],
    steps: Sequence[Step],
    machine: str,
) -> None:
    """Draw the losses and write the page: one file that needs nothing beside it."""
    from modules.evaluation.pictures import page_style, picture_uri

    training = summarise_training(rows)
    curve = path.with_name("training.png")
    draw_training(rows, curve)
    table = "\n".join(
        f"<tr><td>{html.escape(step.title)}</td><td><code>{html.escape(step.command)}</code></td>"
        f'<td class="number">{format_duration(step.seconds)}</td></tr>'
        for step in steps
    )
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        style=page_style(),
        voices=html.escape(voices),
        machine=html.escape(machine),
        sections="\n".join(sections),
        figures=figures_table(figures),
        beginning=BEGIN_WITH_BASE if any(conversion.with_base for conversion, _, _ in figures) else BEGIN,
        steps=table,
        total=format_duration(sum(step.seconds for step in steps)),
        training_picture=picture_uri(curve),
        training_steps=f"{training.steps:,}",
        training_time=format_duration(training.seconds),
        first_distance=f"{training.first_distance:.2f}",
        last_distance=f"{training.last_distance:.2f}",
        share=f"{training.last_distance / training.first_distance:.0%}",
    )
    write_text(path, page)


def format_duration(seconds: float) -> str:
    """Seconds as words: 42 s, 4 min 10 s."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
