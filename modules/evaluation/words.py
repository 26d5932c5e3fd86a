"""Whether the words can still be understood."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from modules.errors import UserError
from modules.evaluation.base import NAN, Case, Figure, Measured, Metric, NotMeasured, Tools
from modules.evaluation.naturalness import INSTALL
from modules.evaluation.recording import Recording
from modules.evaluation.transcriber import Transcriber, Transcript


class Words(Metric):
    """Character error rate of what Whisper base understands (a share of the letters).

    Content error: the text of the result against the text of the source, lower is better; it says what the
    conversion lost, and Whisper's own uncertainty is in it. Where the true text is known: the error of the source
    and of the result against it, and what the conversion added (the second less the first), lower is better.
    Letters and digits count, case, punctuation and spaces do not. More errors than letters count as 100 %: Whisper
    fills noise with the same word over and over, and one such clip would outweigh all others in a mean. Of singing
    Whisper base understands little; read the source's own error first. Source: Radford et al., 2022; edit distance
    by torchaudio.
    """

    _SOURCE = "Radford et al., 2022"
    figures = (
        Figure("cer", "content error (CER to the source's text)", "%", "lower", _SOURCE),
        Figure("cer_source", "CER of the source to the true text", "%", None, _SOURCE),
        Figure("cer_output", "CER of the result to the true text", "%", "lower", _SOURCE),
        Figure("cer_added", "CER added to the true text", "%", "lower", _SOURCE),
    )

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        try:
            self.transcriber = Transcriber(tools.device, tools.pretrain_dir)
        except ImportError as error:
            raise NotMeasured(f"{INSTALL} ({error})") from None
        except UserError as error:
            raise NotMeasured(f"{error.what}; {error.fix}") from None

    def transcript(self, recording: Recording, language: str | None) -> Transcript:
        """What Whisper understands of a recording."""
        return recording.remember(f"text/{language}", lambda: self.transcriber.transcribe(recording.speech, language))

    def measure(self, case: Case) -> Measured:
        source = self.transcript(case.source, self.tools.language)
        output = self.transcript(case.output, source.language or None)
        values = {
            "cer": character_error_rate(source.text, output.text),
            "cer_source": NAN,
            "cer_output": NAN,
            "cer_added": NAN,
        }
        notes = {"source_text": source.text, "output_text": output.text, "language": source.language}
        if case.pair.text is not None:
            values["cer_source"] = character_error_rate(case.pair.text, source.text)
            values["cer_output"] = character_error_rate(case.pair.text, output.text)
            values["cer_added"] = values["cer_output"] - values["cer_source"]
            notes["true_text"] = case.pair.text
        return Measured(values, notes)


def plain_letters(text: str) -> str:
    """Letters, their marks and digits of a text, without case."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in text if unicodedata.category(c)[0] in "LMN")


def character_error_rate(truth: str, text: str) -> float:
    """Insertions, deletions and replacements over the letters of ``truth``, at most 1; NaN where it has none."""
    from torchaudio.functional import edit_distance

    truth, text = plain_letters(truth), plain_letters(text)
    return min(1.0, edit_distance(truth, text) / len(truth)) if truth else NAN


def read_transcripts(files: Sequence[Path]) -> dict[str, str]:
    """Texts by the name of the recording without its extension, from files of lines ``name,text`` or ``name text``.

    Raises:
        UserError: a file is missing or no text.
    """
    texts: dict[str, str] = {}
    for path in files:
        try:
            content = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError("there is no such list of texts", path, "check the path") from None
        except UnicodeDecodeError:
            raise UserError("the list of texts is not UTF-8", path, "save it as UTF-8") from None
        if path.suffix.lower() == ".csv":
            rows = [(row[0], row[1]) for row in csv.reader(content.splitlines()) if len(row) > 1]
        else:
            rows = [(name, text) for name, _, text in (line.partition(" ") for line in content.splitlines()) if text]
        texts.update({Path(name.strip()).stem: text.strip() for name, text in rows})
    return texts


def find_text(recording: Path, texts: dict[str, str]) -> str | None:
    """The text of a recording: one of ``texts``, a .txt beside it, or its line in the lists of its folder."""
    if recording.stem in texts:
        return texts[recording.stem]
    beside = recording.with_suffix(".txt")
    if beside.is_file():
        return beside.read_text(encoding="utf-8-sig").strip()
    lists = [*sorted(recording.parent.glob("transcripts.csv")), *sorted(recording.parent.glob("*.trans.txt"))]
    return read_transcripts(lists).get(recording.stem)
