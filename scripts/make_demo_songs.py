"""Rebuilds the songs in demo/: old melodies sung by a synthetic voice, and a second singer made from it.

The songs are in the repository; nobody needs this script to use the project. It needs pysinsy
(`pip install -r requirements-demo-songs.txt`). Sources and licences: demo/LICENSE.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modules.cli import EXIT_OK, make_parser, run  # noqa: E402  (the repository root has to be on the path first)
from modules.errors import UserError  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

SAMPLE_RATE = 44100
RMS = 0.055  # of full scale, the same for every song
PEAK_LIMIT = 0.8
DIVISIONS = 4  # MusicXML time units in a quarter note
GLIDE = 0.06  # seconds over which the correction of one note goes over into the next one's

# Poems of the anthology Ogura Hyakunin Isshu (about 1235), written as they are pronounced, one mora a kana.
POEMS = {
    "Emperor Tenji": "あきのたのかりほのいおのとまをあらみわがころもでわつゆにぬれつつ",
    "Empress Jito": "はるすぎてなつきにけらししろたえのころもほすちょうあまのかぐやま",
    "Kakinomoto no Hitomaro": "あしびきのやまどりのおのしだりおのながながしよをひとりかもねん",
    "Yamabe no Akahito": "たごのうらにうちいでてみればしろたえのふじのたかねにゆきわふりつつ",
    "Sarumaru": "おくやまにもみじふみわけなくしかのこえきくときぞあきわかなしき",
    "Abe no Nakamaro": "あまのはらふりさけみればかすがなるみかさのやまにいでしつきかも",
    "Ono no Komachi": "はなのいろわうつりにけりないたずらにわがみよにふるながめせしまに",
    "Semimaru": "これやこのゆくもかえるもわかれてわしるもしらぬもおうさかのせき",
    "Ariwara no Narihira": "ちはやぶるかみよもきかずたつたがわからくれないにみずくくるとわ",
    "Ki no Tomonori": "ひさかたのひかりのどけきはるのひにしずこころなくはなのちるらん",
    "Ki no Tsurayuki": "ひとわいさこころもしらずふるさとわはなぞむかしのかににおいける",
    "Ise no Tayu": "いにしえのならのみやこのやえざくらきょうここのえににおいぬるかな",
    "Emperor Koko": "きみがためはるののにいでてわかなつむわがころもでにゆきわふりつつ",
    "Sakura (traditional)": "さくらさくらやよいのそおらわみわたすかぎいり",
}


@dataclass(frozen=True)
class Song:
    """A melody with words.

    ``bars`` are notes as NAME[:BEATS], a beat by default, "R" for a rest, "|" between bars.
    """

    name: str
    title: str
    poem: str
    tempo: int  # quarter notes a minute
    beats: int  # quarter notes a bar
    fifths: int  # sharps of the key, flats where negative
    bars: str
    held_out: bool = False  # kept from training, converted at the end


@dataclass(frozen=True)
class Note:
    """One note or rest: pitch like "Bb4", or None for a rest; its length in quarter notes; its mora."""

    pitch: str | None
    beats: float
    mora: str


FIRST_SONGS = (
    Song("twinkle", "Ah! vous dirai-je, maman (France, 1761)", "Emperor Tenji", 112, 4, 4,
         "E4 E4 B4 B4 | C#5 C#5 B4:2 | A4 A4 G#4 G#4 | F#4 F#4 E4:2 | B4 B4 A4 A4 | G#4 G#4 F#4:2"),
    Song("frere_jacques", "Frère Jacques (France, about 1780)", "Empress Jito", 150, 4, 1,
         "G4 A4 B4 G4 | G4 A4 B4 G4 | B4 C5 D5:2 | B4 C5 D5:2 | D5:.5 E5:.5 D5:.5 C5:.5 B4 G4 | "
         "D5:.5 E5:.5 D5:.5 C5:.5 B4 G4 | G4 D4 G4:2 | G4 D4 G4:2"),
    Song("auld_lang_syne", "Auld Lang Syne (Scotland, 1799)", "Ono no Komachi", 160, 4, 1,
         "D4 | G4:1.5 G4:.5 G4 B4 | A4:1.5 G4:.5 A4 B4 | G4:1.5 G4:.5 B4 D5 | E5:3 E5 | D5:1.5 B4:.5 B4 G4 | "
         "A4:1.5 G4:.5 A4 B4 | G4:1.5 E4:.5 E4 D4 | G4:3"),
    Song("london_bridge", "London Bridge (England, 18th century)", "Semimaru", 150, 4, 4,
         "B4:1.5 C#5:.5 B4 A4 | G#4 A4 B4:2 | F#4 G#4 A4:2 | G#4 A4 B4:2 | B4:1.5 C#5:.5 B4 A4 | G#4 A4 B4:2 | "
         "F#4:2 B4:2 | G#4 E4:2 R"),
    Song("silent_night", "Stille Nacht (F. X. Gruber, 1818)", "Ki no Tomonori", 112, 3, 0,
         "G4:1.5 A4:.5 G4 | E4:3 | G4:1.5 A4:.5 G4 | E4:3 | D5:2 D5 | B4:3 | C5:2 C5 | G4:3"),
    Song("lightly_row", "Alles neu macht der Mai (Germany, 18th century)", "Abe no Nakamaro", 160, 4, -1,
         "C5 A4 A4:2 | Bb4 G4 G4:2 | F4 G4 A4 Bb4 | C5 C5 C5:2 | C5 A4 A4:2 | Bb4 G4 G4:2 | F4 A4 C5 C5 | F4:3"),
    Song("greensleeves", "Greensleeves (England, 1580)", "Ki no Tsurayuki", 190, 3, -2,
         "G4 | Bb4:2 C5 | D5:1.5 Eb5:.5 D5 | C5:2 A4 | F4:1.5 G4:.5 A4 | Bb4:2 G4 | G4:1.5 Gb4:.5 G4 | A4:2 Gb4 | "
         "D4:2 G4 | Bb4:2 C5 | D5:1.5 Eb5:.5 D5 | C5:2 A4 | F4:1.5 G4:.5 A4 | G4:3", held_out=True),
)
SECOND_SONGS = (
    Song("ode_to_joy", "Ode to Joy (L. van Beethoven, 1824)", "Kakinomoto no Hitomaro", 150, 4, -1,
         "A4 A4 Bb4 C5 | C5 Bb4 A4 G4 | F4 F4 G4 A4 | A4:1.5 G4:.5 G4:2 | A4 A4 Bb4 C5 | C5 Bb4 A4 G4 | "
         "F4 F4 G4 A4 | G4:1.5 F4:.5 F4:2"),
    Song("sakura", "Sakura Sakura (Japan, Edo period)", "Sakura (traditional)", 104, 4, -3,
         "C5 C5 D5:2 | C5 C5 D5:2 | C5 D5 Eb5 D5 | C5 D5:.5 C5:.5 Ab4:2 | G4 Eb4 G4 Ab4 | G4 G4:.5 Eb4:.5 D4:2"),
    Song("amazing_grace", "New Britain, 'Amazing Grace' (USA, 1829)", "Yamabe no Akahito", 104, 3, -4,
         "Eb4 | Ab4:2 C5:.5 Ab4:.5 | C5:2 Bb4 | Ab4:2 F4 | Eb4:2 Eb4 | Ab4:2 C5:.5 Ab4:.5 | C5:2 Bb4 | Eb5:3"),
    Song("au_clair", "Au clair de la lune (France, 18th century)", "Sarumaru", 150, 4, 3,
         "A4 A4 A4 B4 | C#5:2 B4:2 | A4 C#5 B4 B4 | A4:4 | B4 B4 B4 B4 | F#4:2 F#4:2 | B4 A4 G#4 F#4 | E4:4"),
    Song("row_your_boat", "Row, Row, Row Your Boat (USA, 1852)", "Ariwara no Narihira", 240, 6, 2,
         "D4:3 D4:3 | D4:2 E4 F#4:3 | F#4:2 E4 F#4:2 G4 | A4:6 | D5 D5 D5 A4 A4 A4 | F#4 F#4 F#4 D4 D4 D4 | "
         "A4:2 G4 F#4:2 E4 | D4:6"),
    Song("jingle_bells", "One Horse Open Sleigh (J. Pierpont, 1857)", "Ise no Tayu", 156, 4, -4,
         "C5 C5 C5:2 | C5 C5 C5:2 | C5 Eb5 Ab4:1.5 Bb4:.5 | C5:4 | Db5 Db5 Db5:1.5 Db5:.5 | Db5 C5 C5 C5:.5 C5:.5 | "
         "C5 Bb4 Bb4 C5 | Bb4:2 Eb5:2"),
    Song("scarborough_fair", "Scarborough Fair (England, 17th century)", "Emperor Koko", 120, 3, 0,
         "D4:2 D4 | A4:2 A4 | E4:1.5 F4:.5 E4 | D4:3 | R A4 C5 | D5:2 C5 | A4 B4 G4 | A4:3", held_out=True),
)


@dataclass(frozen=True)
class Singer:
    """Who sings what, and how the voice differs from the one that pysinsy brings."""

    songs: tuple[Song, ...]
    pitch: float = 1.0  # ratio of f0
    formants: float = 1.0  # ratio of the formant frequencies
    breath: float = 0.0  # share of noise added to every band


# taro: an octave lower, with a vocal tract longer by 1/0.84 (about that of a man), a little breathier.
SINGERS = {
    "sinsy": Singer(FIRST_SONGS),
    "taro": Singer(SECOND_SONGS, pitch=0.5, formants=0.84, breath=0.04),
}


def split_morae(text: str) -> list[str]:
    """Kana as sung: a small kana belongs to the one before it."""
    morae: list[str] = []
    for kana in text:
        if kana in "ゃゅょ" and morae:
            morae[-1] += kana
        else:
            morae.append(kana)
    return morae


def parse_bars(song: Song) -> list[list[Note]]:
    """The notes bar by bar with their morae, bars filled up with rests, a bar of rest before and after them.

    The words start again where the melody is longer.
    """
    morae = split_morae(POEMS[song.poem])
    sung = 0
    bars = []
    for text in song.bars.split("|"):
        bar = []
        for token in text.split():
            pitch, _, length = token.partition(":")
            if pitch == "R":
                bar.append(Note(None, float(length or 1), ""))
                continue
            bar.append(Note(pitch, float(length or 1), morae[sung % len(morae)]))
            sung += 1
        missing = song.beats - sum(note.beats for note in bar)
        rest = [Note(None, missing, "")] if missing > 0 else []
        bars.append(bar + rest if bars else rest + bar)  # a first bar that is short is an upbeat
    silence = [Note(None, song.beats, "")]
    return [silence, *bars, silence]


def music_xml(song: Song) -> str:
    """The song as a MusicXML score."""
    score = ElementTree.Element("score-partwise", version="2.0")
    part_list = ElementTree.SubElement(score, "part-list")
    ElementTree.SubElement(ElementTree.SubElement(part_list, "score-part", id="P1"), "part-name").text = song.title
    part = ElementTree.SubElement(score, "part", id="P1")
    for number, bar in enumerate(parse_bars(song), 1):
        measure = ElementTree.SubElement(part, "measure", number=str(number))
        if number == 1:
            _add_attributes(measure, song)
        for note in bar:
            _add_note(measure, note)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(score, encoding="unicode")


def _add_attributes(measure: ElementTree.Element, song: Song) -> None:
    attributes = ElementTree.SubElement(measure, "attributes")
    ElementTree.SubElement(attributes, "divisions").text = str(DIVISIONS)
    key = ElementTree.SubElement(attributes, "key")
    ElementTree.SubElement(key, "fifths").text = str(song.fifths)
    ElementTree.SubElement(key, "mode").text = "major"
    time = ElementTree.SubElement(attributes, "time")
    ElementTree.SubElement(time, "beats").text = str(song.beats)
    ElementTree.SubElement(time, "beat-type").text = "4"
    direction = ElementTree.SubElement(measure, "direction")
    ElementTree.SubElement(direction, "sound", tempo=str(song.tempo))


def _add_note(measure: ElementTree.Element, note: Note) -> None:
    element = ElementTree.SubElement(measure, "note")
    if note.pitch is None:
        ElementTree.SubElement(element, "rest")
    else:
        pitch = ElementTree.SubElement(element, "pitch")
        ElementTree.SubElement(pitch, "step").text = note.pitch[0]
        alter = {"#": "1", "b": "-1"}.get(note.pitch[1])
        if alter:
            ElementTree.SubElement(pitch, "alter").text = alter
        ElementTree.SubElement(pitch, "octave").text = note.pitch[-1]
    ElementTree.SubElement(element, "duration").text = str(max(1, round(note.beats * DIVISIONS)))
    ElementTree.SubElement(element, "voice").text = "1"
    if note.mora:
        lyric = ElementTree.SubElement(element, "lyric")
        ElementTree.SubElement(lyric, "syllabic").text = "single"
        ElementTree.SubElement(lyric, "text").text = note.mora


def sing(song: Song) -> np.ndarray:
    """The song by the HTS voice NIT SONG070 F001: float64 [T] at SAMPLE_RATE."""
    import numpy as np
    import soxr

    try:
        import pysinsy
    except ImportError:
        raise UserError(
            "pysinsy is not installed", "requirements-demo-songs.txt", "pip install -r requirements-demo-songs.txt"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        score = Path(folder) / "score.xml"
        score.write_text(music_xml(song), encoding="utf-8")
        sinsy = pysinsy.sinsy.Sinsy()
        sinsy.setLanguages("j", pysinsy.get_default_dic_dir())
        sinsy.loadVoices(pysinsy.get_default_htsvoice())
        if not sinsy.loadScoreFromMusicXML(str(score)):
            raise UserError("the voice cannot read the score", song.name, "check the notes of this song")
        samples, rate = sinsy.synthesize()
    return soxr.resample(np.asarray(samples, dtype=np.float64), rate, SAMPLE_RATE)


def resing(audio: np.ndarray, song: Song, singer: Singer) -> np.ndarray:
    """The song in tune and in the voice of ``singer`` (analysis and synthesis by WORLD).

    The HTS voice takes its pitch from statistics and is up to three semitones off on some notes.
    """
    import numpy as np
    import pyworld

    f0, times = pyworld.harvest(audio, SAMPLE_RATE, f0_floor=150.0, f0_ceil=900.0)
    envelope = pyworld.cheaptrick(audio, f0, times, SAMPLE_RATE)
    aperiodicity = pyworld.d4c(audio, f0, times, SAMPLE_RATE)
    bins = np.arange(envelope.shape[1])
    source_bins = np.minimum(bins / singer.formants, bins[-1])
    warped = np.stack([np.exp(np.interp(source_bins, bins, np.log(frame))) for frame in envelope])
    breathy = 1 - (1 - aperiodicity) * (1 - singer.breath)
    return pyworld.synthesize(f0 * tuning(f0, times, song) * singer.pitch, warped, breathy, SAMPLE_RATE)


def tuning(f0: np.ndarray, times: np.ndarray, song: Song) -> np.ndarray:
    """The ratio [T] that brings the middle pitch of each note to the score; vibrato and glides stay."""
    import librosa
    import numpy as np

    octaves = np.zeros_like(f0)
    start = 0.0
    for note in (note for bar in parse_bars(song) for note in bar):
        stop = start + note.beats * 60 / song.tempo
        inside = (times >= start) & (times < stop)
        settled = inside & (times >= start + 0.3 * (stop - start)) & (f0 > 0)
        if note.pitch is not None and settled.any():
            octaves[inside] = np.log2(librosa.note_to_hz(note.pitch) / np.median(f0[settled]))
        start = stop
    window = np.hanning(round(GLIDE / (times[1] - times[0])) + 2)
    return 2 ** np.convolve(octaves, window / window.sum(), mode="same")


def finish(audio: np.ndarray) -> np.ndarray:
    """Silence at the ends cut to about 0.1 s, no offset, the common loudness."""
    import librosa
    import numpy as np

    audio = audio - audio.mean()
    _, (start, stop) = librosa.effects.trim(audio, top_db=45)
    margin = SAMPLE_RATE // 10
    audio = audio[max(0, start - margin) : stop + margin]
    ramp = np.linspace(0, 1, margin // 2)
    audio[: ramp.size] *= ramp
    audio[-ramp.size :] *= ramp[::-1]
    return audio * min(RMS / np.sqrt(np.mean(audio**2)), PEAK_LIMIT / np.abs(audio).max())


def make_songs(args: argparse.Namespace) -> int:
    """Sing every song and write it under its singer."""
    import soundfile

    from modules.files import atomic_path

    for name, singer in SINGERS.items():
        for song in singer.songs:
            audio = finish(resing(sing(song), song, singer))
            target = args.out_dir / ("held_out" if song.held_out else "voices") / name / f"{song.name}.flac"
            with atomic_path(target) as temporary:
                soundfile.write(temporary, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
            print(f"{target}: {audio.size / SAMPLE_RATE:.1f} s, {target.stat().st_size / 1024:.0f} KiB")
    return EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and rebuild the songs."""
    parser = make_parser("Rebuild the demo songs (needs pysinsy; the songs are already in demo/).")
    parser.add_argument("--out_dir", type=Path, default=ROOT / "demo", help="where voices/ and held_out/ go")
    return run(make_songs, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
