"""The page: the figures of all pairs, and players and pictures of each."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from modules.evaluation.base import Baseline, Figure
from modules.evaluation.measure import Evaluator, Results, Scored
from modules.evaluation.pictures import RESULT_COLOUR, audio_tag, draw_pair, page_style, picture_uri, save_figure
from modules.evaluation.recording import Recording
from modules.files import write_text
from modules.quality.report import ARROWS, count_text, name

TEMPLATE = Path(__file__).with_name("page.html")
IN_ROWS = (  # figures of the table pair by pair; the sections have all of them
    "similarity_target",
    "similarity_source",
    "f0_correlation",
    "f0_cents",
    "cer",
    "dnsmos_ovrl",
    "clipped",
    "lost_sound",
)
SECTION = """
<section id="pair$number">
<h2>$title</h2>
<div class="players">
<figure><figcaption>source$source_speaker</figcaption>$source_audio</figure>
<figure><figcaption>result: $target</figcaption>$result_audio</figure>
</div>
<p>Moved by $semitones semitones.$seconds</p>
$texts
<div class="scroll"><table>$figures</table></div>
<img src="$picture" alt="mel spectrograms of source and result, and both pitch curves">
</section>
"""
NOTE_TITLES = {"true_text": "true text", "source_text": "heard in the source", "output_text": "heard in the result"}


def write_page(
    path: Path, results: Results, evaluator: Evaluator, settings: Mapping[str, Any], page_pairs: int
) -> None:
    """One file that needs nothing beside it; the pictures also lie in ``pictures`` beside it."""
    pictures = path.with_name("pictures")
    shown = list(enumerate(results.scored))[:page_pairs]
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        style=page_style(),
        pairs=len(results.scored),
        settings=html.escape(_settings(settings)),
        summary="\n".join(_summary_rows(results)),
        not_measured="".join(
            f"<p>{html.escape(metric)}: not measured: {html.escape(reason)}</p>"
            for metric, reason in results.not_measured.items()
        ),
        overview=_overview(results, pictures / "overview.png"),
        headings="".join(f'<th class="number">{html.escape(figure.title)}</th>' for figure in _row_figures(results)),
        rows="\n".join(_row(number, scored, results, page_pairs) for number, scored in enumerate(results.scored)),
        sections="\n".join(_section(number, scored, results, evaluator, pictures) for number, scored in shown),
    )
    write_text(path, page)


def _settings(settings: Mapping[str, Any]) -> str:
    model = settings.get("model")
    what = f"model {model['onnx'] or model['model_path']}" if model else f"pairs of {settings['pairs']}"
    conversion = json.dumps(settings["conversion"], ensure_ascii=False) if "conversion" in settings else ""
    return f"{what}; f0 measured by {settings['judge']}. {conversion}"


def _summary_rows(results: Results) -> list[str]:
    summary = results.summary()
    rows = []
    for figure in results.figures:
        row = summary.get(figure.key)
        values = (row.mean, row.median, row.worst) if row else (None, None, None)
        cells = [figure.show(value) for value in values] + [count_text(row, results)]
        rows.append(_table_row([name(figure), ARROWS[figure.better]], cells))
        rows += [_baseline_row(figure, baseline) for baseline in results.baselines if baseline.of == figure.key]
    return rows


def _baseline_row(figure: Figure, baseline: Baseline) -> str:
    span = f"{figure.show(baseline.lowest)} to {figure.show(baseline.highest)}"
    return _table_row([f"– {baseline.title}", ""], [figure.show(baseline.mean), "", span, str(baseline.count)])


def _table_row(texts: Sequence[str], numbers: Sequence[str]) -> str:
    cells = [f"<td>{html.escape(text)}</td>" for text in texts]
    cells += [f'<td class="number">{html.escape(number)}</td>' for number in numbers]
    return f"<tr>{''.join(cells)}</tr>"


def _row_figures(results: Results) -> list[Figure]:
    return [figure for figure in results.figures if figure.key in IN_ROWS]


def _row(number: int, scored: Scored, results: Results, page_pairs: int) -> str:
    stem = html.escape(scored.pair.source.stem)
    link = f'<a href="#pair{number}">{stem}</a>' if number < page_pairs else stem
    values = (figure.show(scored.values.get(figure.key)) for figure in _row_figures(results))
    cells = [f"{scored.semitones:+g}", *values]
    numbers = "".join(f'<td class="number">{html.escape(cell)}</td>' for cell in cells)
    return f"<tr><td>{link}</td><td>{html.escape(scored.pair.target)}</td>{numbers}</tr>"


def _section(number: int, scored: Scored, results: Results, evaluator: Evaluator, pictures: Path) -> str:
    pair, predictor = scored.pair, evaluator.tools.reference_predictor
    source, output = evaluator.source(pair), Recording.load(pair.output)
    speaker = f": {pair.source_speaker}" if pair.source_speaker else ""
    picture = pictures / f"{number:03d}_{pair.output.stem}.png"
    draw_pair(
        (source.audio, output.audio),
        (f"source{speaker}", f"result: {pair.target}"),
        (source.contour(predictor), output.contour(predictor)),
        scored.semitones,
        picture,
    )
    return Template(SECTION).substitute(
        number=number,
        title=html.escape(f"{pair.source.stem} → {pair.target}"),
        source_speaker=html.escape(speaker),
        source_audio=audio_tag(source.audio),
        result_audio=audio_tag(output.audio),
        target=html.escape(pair.target),
        semitones=f"{scored.semitones:+g}",
        seconds="" if pair.seconds is None else f" The conversion took {pair.seconds:.1f} s.",
        texts="".join(
            f"<p>{title}: {html.escape(scored.notes[key]) or '(nothing)'}</p>"
            for key, title in NOTE_TITLES.items()
            if key in scored.notes
        ),
        figures="".join(
            _table_row([name(figure), ARROWS[figure.better]], [figure.show(scored.values.get(figure.key))])
            for figure in results.figures
        ),
        picture=picture_uri(picture),
    )


def _overview(results: Results, path: Path) -> str:
    """The similarities and the pitch errors of all pairs; empty where neither was measured."""
    from matplotlib.figure import Figure as Plot

    similarities, melodies = (
        np.array([[scored.values.get(key, np.nan) for key in keys] for scored in results.scored])
        for keys in (("similarity_source", "similarity_target"), ("f0_cents", "f0_correlation"))
    )
    if not (np.isfinite(similarities).all(axis=1).any() or np.isfinite(melodies).all(axis=1).any()):
        return ""
    plot = Plot(figsize=(11, 4.2), layout="constrained")
    left, right = plot.subplots(1, 2)
    left.scatter(*similarities.T, color=RESULT_COLOUR, s=22)
    for baseline, style in zip(results.baselines, ("-", ":"), strict=False):
        left.axhline(baseline.mean, linestyle=style, color="#4a5568", linewidth=1, label=baseline.title)
    lowest = np.nanmin(similarities) if np.isfinite(similarities).any() else 0.0
    left.plot([lowest, 1], [lowest, 1], color="#a0aec0", linewidth=1)
    left.set_title("voice: above the slanted line is nearer to the target", loc="left", fontsize=11)
    left.set_xlabel("similarity to source")
    left.set_ylabel("similarity to target")
    if results.baselines:
        left.legend(fontsize=9)
    right.scatter(*melodies.T, color=RESULT_COLOUR, s=22)
    right.set_title("melody: the upper left corner is best", loc="left", fontsize=11)
    right.set_xlabel("median f0 error, cents")
    right.set_ylabel("f0 correlation")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(plot, path)
    return f'<img src="{picture_uri(path)}" alt="similarities to source and target, and errors of the melody">'
