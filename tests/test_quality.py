"""The quality command: pairs in, table, JSON and page out; what it says when something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modules.audio.io import load_audio
from modules.errors import UserError
from modules.evaluation import METRICS, metric_class
from modules.evaluation.base import Figure, Metric, Pair, Tools
from modules.evaluation.melody import choose_semitones
from modules.evaluation.recording import Recording
from modules.evaluation.transcriber import Transcript, load_whisper
from modules.evaluation.voices import Voices
from modules.evaluation.words import Words, character_error_rate, find_text, read_transcripts
from modules.f0 import get_predictor
from modules.inference.options import ModelOptions
from modules.quality.command import measure
from modules.quality.request import Request, fill_up, parse_shift, parse_voice, read_pairs
from tests.conftest import ROOT
from tests.encoder_files import ctranslate2_bytes
from tests.standin_voice import small_config, write_encoder, write_model
from tests.test_quality_faults import sing_as

RATE = 44100
SONGS = {"sinsy": "demo/held_out/sinsy/greensleeves.flac", "taro": "demo/held_out/taro/scarborough_fair.flac"}
CHEAP = ("melody", "loudness", "clipping", "silence", "timing")
SCRIPT = "benchmarks/quality.py"


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> dict[str, Path]:
    """Two seconds of a song of each singer, each in a folder of the singer's name."""
    folder = tmp_path_factory.mktemp("songs")
    found = {}
    for name, path in SONGS.items():
        audio, _ = load_audio(ROOT / path, RATE)
        found[name] = folder / "voices" / name / f"{name}.wav"
        found[name].parent.mkdir(parents=True)
        soundfile.write(found[name], audio[RATE : 3 * RATE], RATE)
    return found


@pytest.fixture
def table(songs, tmp_path) -> Path:
    """A copy as good as it gets, a shifted one, and a row whose output is missing."""
    audio, _ = load_audio(songs["taro"], RATE)
    soundfile.write(tmp_path / "copy.wav", audio, RATE)
    soundfile.write(tmp_path / "late <b>.wav", np.concatenate([np.zeros(RATE // 10), audio]), RATE)
    rows = ["source,output,target,semitones", *(f"{songs['taro']},{name}.wav,sinsy,0" for name in ("copy", "late <b>"))]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join([*rows, f"{songs['taro']},missing.wav,sinsy,"]) + "\n", encoding="utf-8")
    return path


def quality(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


# The command


def test_pairs_are_judged_and_a_missing_file_does_not_stop_the_others(table, songs, tmp_path) -> None:
    out = tmp_path / "out"
    voices = songs["taro"].parent.parent
    result = quality("--pairs", table, "--voices", voices, "--metrics", *CHEAP, "--out_dir", out)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "2 pair(s) done, 0 skipped, 1 failed" in result.stdout and "missing.wav" in result.stderr
    assert "f0 correlation" in result.stdout and "clipped frames" in result.stdout

    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    copy, late = found["pairs"]
    assert copy["source_speaker"] == "taro" and copy["target"] == "sinsy" and copy["semitones"] == 0
    assert copy["values"]["f0_correlation"] > 0.999 and copy["values"]["f0_cents"] == copy["values"]["clipped"] == 0
    assert copy["values"]["length_error"] == 0 and late["values"]["length_error"] == pytest.approx(100)
    assert late["values"]["voicing_error"] > copy["values"]["voicing_error"] == 0
    figure = found["figures"]["length_error"]
    assert figure["mean"] == pytest.approx(50) and figure["worst"] == pytest.approx(100) and figure["count"] == 2
    assert figure["unit"] == "ms" and figure["better"] == "lower" and figure["title"] == "length error"
    assert found["failed"][0]["reason"].startswith("there is no such audio file")
    assert found["settings"]["judge"] == "pm"

    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<audio controls") == 4 and page.count('<img src="data:image/png') == 3
    assert "length error (ms)" in page and ">100.0<" in page and "taro → sinsy" in page
    assert "$" not in page.split("</style>")[1].split("<audio")[0]
    assert 'src="http' not in page and "href=\"http" not in page  # it needs nothing beside it
    assert len(list((out / "pictures").glob("*.png"))) == 3


def test_a_model_is_measured_with_the_shift_that_suits_each_pair(songs, tmp_path, capsys) -> None:
    config = small_config().model_copy(update={"spk": {"sinsy": 0, "taro": 1}})
    model = write_model(tmp_path / "model", config)
    request = Request(
        out_dir=tmp_path / "out",
        metrics=(*CHEAP, "units"),
        sources=(songs["sinsy"], songs["taro"], tmp_path / "nobody.wav"),
        voices=songs["sinsy"].parent.parent,
        model=ModelOptions(model_path=model, config_path=model.with_name("config.json"), device="cpu"),
        pretrain_dir=write_encoder(tmp_path / "pretrain"),
    )
    assert measure(request) == 1
    assert "nobody.wav: there is no such file" in capsys.readouterr().err
    found = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    pitch = {}
    for name, path in songs.items():
        contour = get_predictor("pm")(load_audio(path, RATE)[0])
        pitch[name] = float(np.median(contour.f0[contour.uv > 0.5]))
    shift = round(12 * np.log2(pitch["taro"] / pitch["sinsy"]))
    assert shift < -10  # he sings lower
    assert [(p["source_speaker"], p["target"], p["semitones"]) for p in found["pairs"]] == [
        ("sinsy", "taro", shift),
        ("taro", "sinsy", -shift),
    ]
    for pair in found["pairs"]:
        assert soundfile.info(pair["output"]).duration == 2.0
        assert f"{pair['semitones']:g}key_{pair['target']}" in pair["output"]
        assert pair["seconds"] > 0 and pair["values"]["length_error"] == 0
        assert 0 < pair["values"]["unit_distance"] < 2
    assert found["settings"]["model"]["model_path"] == str(model) and found["settings"]["conversion"]["seed"] == 52468
    assert "trans" not in found["settings"]["conversion"]


def test_what_is_not_installed_is_reported_and_the_rest_is_measured(table, tmp_path, monkeypatch, capsys) -> None:
    for package in ("speechmos", "whisper"):
        monkeypatch.setitem(sys.modules, package, None)
    voices = tmp_path / "voices" / "sinsy"
    voices.mkdir(parents=True)
    (voices / "a.flac").write_bytes((ROOT / SONGS["sinsy"]).read_bytes())
    request = Request(
        out_dir=tmp_path / "out", pairs=table, voices=voices.parent, pretrain_dir=tmp_path / "no_weights"
    )
    assert measure(request) == 1  # of the missing file
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    missing = found["not_measured"]
    assert set(missing) == {"speaker", "words", "naturalness", "units"}
    for name in ("words", "naturalness"):
        assert missing[name].startswith("pip install -r requirements-eval.txt")
        assert f"{name}: not measured: pip install -r requirements-eval.txt" in " ".join(shown.split())
    assert "python -m pretrain fetch resemblyzer" in missing["speaker"]
    assert "--speech_encoder" in missing["units"]
    assert found["figures"]["f0_cents"]["count"] == 2 and "dnsmos_ovrl" not in found["figures"]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "naturalness: not measured: pip install -r requirements-eval.txt" in page


def test_without_recordings_of_the_speakers_the_voice_is_not_measured(tmp_path) -> None:
    with pytest.raises(Exception, match="--voices FOLDER"):
        metric_class("speaker")(Tools(get_predictor("pm"), Voices()))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to measure"),
        (["--sources", "a.wav", "--pairs", "b.csv"], "two things to measure"),
        (["--pairs", "no.csv"], "there is no such table"),
        (["--sources", "demo", "-t", "much"], "'much' cannot be understood"),
        (["--sources", "demo", "--voice", "alice"], "'alice' cannot be understood"),
        (["--sources", "nowhere.wav"], "nothing to convert"),
        (["--sources", "demo/held_out", "--voices", "nowhere"], "no such folder"),
        (["--sources", "demo/held_out", "-m", "no.pth"], "no.pth"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_start_ends_with_2_and_one_message(arguments: list[str], says: str, tmp_path, capsys) -> None:
    from benchmarks import quality as script

    assert script.main([*arguments, "--out_dir", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err


# The table of pairs, the shifts, the speakers


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("source,output\na,b\n", "no column target"),
        ("source,output,target\n", "is empty"),
        ("source,output,target\na,,c\n", "the column output is empty"),
        ("source,output,target,semitones\na,b,c,high\n", "'high' is no number"),
    ],
)
def test_a_wrong_table_of_pairs_is_refused(tmp_path, content: str, says: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=says):
        read_pairs(path)


def test_the_table_of_pairs_is_read_beside_itself(tmp_path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("output,source,target,text,semitones\nb.wav,a.wav,alice,あめ,-12\nc.wav,a.wav,bob,,\n", "utf-8")
    assert read_pairs(path) == [
        Pair(tmp_path / "a.wav", tmp_path / "b.wav", "alice", "", -12.0, "あめ"),
        Pair(tmp_path / "a.wav", tmp_path / "c.wav", "bob", "", None, None),
    ]


def test_shifts_and_voices_of_the_command_line() -> None:
    assert parse_shift("auto") is None and parse_shift("-12") == -12
    assert parse_voice("alice=a/b=c") == ("alice", Path("a/b=c"))
    assert fill_up([None], 2) == [None, None] and fill_up([3.0, None], 2) == [3.0, None]
    with pytest.raises(UserError, match="2 shifts for 1"):
        fill_up([1.0, 2.0], 1)


@pytest.mark.parametrize(
    ("own", "usual", "semitones"), [(200, 400, 12), (200, 420, 12), (200, 300, 7), (400, 210, -12), (0, 200, 0)]
)
def test_the_shift_is_a_whole_octave_where_one_is_near(own: float, usual: float, semitones: int) -> None:
    assert choose_semitones(own, usual) == semitones


def test_recordings_that_are_measured_are_no_reference(songs) -> None:
    voices = Voices.find(ROOT / "demo/voices", {"taro": songs["taro"].parent}, leave_out=[songs["taro"]])
    assert voices.files["taro"] == [songs["taro"]]  # he has no other
    assert len(voices.files["sinsy"]) == 6
    first = voices.files["sinsy"][0]
    assert first not in Voices.find(ROOT / "demo/voices", {}, leave_out=[first]).files["sinsy"]
    assert voices.owner(songs["taro"]) == "taro" and voices.owner(ROOT / SONGS["sinsy"]) == "sinsy"
    assert voices.owner(ROOT / "README.md") == ""


def test_a_shift_that_nobody_gave_is_heard(songs, tmp_path) -> None:
    audio, _ = load_audio(songs["taro"], RATE)
    soundfile.write(tmp_path / "moved.wav", sing_as(audio, 1.0, 3.1), RATE)
    path = tmp_path / "pairs.csv"
    path.write_text(f"source,output,target\n{songs['taro']},moved.wav,sinsy\n")
    assert measure(Request(out_dir=tmp_path / "out", metrics=("melody",), pairs=path)) == 0
    pair = json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))["pairs"][0]
    assert pair["semitones"] == 3 and pair["values"]["f0_cents"] == pytest.approx(10, abs=2)


# Words


def test_the_character_error_rate_counts_letters_alone() -> None:
    assert character_error_rate("Hello, World!", "hello world") == 0
    assert character_error_rate("abcd", "abxd") == 0.25
    assert character_error_rate("ab", "a very long loop of words") == 1
    assert np.isnan(character_error_rate("...", "a"))
    assert character_error_rate("ｶﾞﾗｽ", "ガラス") == 0  # forms of one letter are one letter


def test_true_texts_are_found_beside_the_recording_or_in_a_list(tmp_path) -> None:
    (tmp_path / "transcripts.csv").write_text("a,first\nb.flac,\"second, too\"\n", "utf-8")
    (tmp_path / "1-2.trans.txt").write_text("1-2-0001 THE THIRD\n", "utf-8")
    (tmp_path / "c.txt").write_text("fourth\n", "utf-8")
    names = ("a", "b", "1-2-0001", "c", "d")
    found = [find_text(tmp_path / f"{name}.flac", {}) for name in names]
    assert found == ["first", "second, too", "THE THIRD", "fourth", None]
    assert find_text(tmp_path / "a.flac", {"a": "mine"}) == "mine"
    with pytest.raises(UserError, match="no such list"):
        read_transcripts([tmp_path / "none.csv"])


def test_the_error_that_a_conversion_adds_is_that_over_the_sources_own(monkeypatch) -> None:
    texts = {1: "the cat sat", 2: "the bat sat"}

    class Listener:
        def __init__(self, *_: object) -> None:
            pass

        def transcribe(self, audio: np.ndarray, language: str | None) -> Transcript:
            return Transcript(texts[int(audio[0])], language or "en")

    monkeypatch.setattr("modules.evaluation.words.Transcriber", Listener)
    words = Words(Tools(get_predictor("pm"), Voices()))
    source, output = (Recording(np.full(RATE, value, np.float32)) for value in texts)
    for recording in (source, output):
        recording.remember("speech", lambda recording=recording: recording.audio)
    from modules.evaluation.base import Case

    found = words.measure(Case(Pair(Path("s"), Path("o"), "t", text="The cat sat."), source, output, 0.0))
    assert found.values["cer_source"] == 0
    assert found.values["cer"] == found.values["cer_output"] == found.values["cer_added"] == pytest.approx(1 / 9)
    assert found.notes["output_text"] == "the bat sat" and found.notes["language"] == "en"


def test_a_ctranslate2_file_becomes_the_whole_whisper_it_was_made_from(tmp_path) -> None:
    """The names are those of CTranslate2's own converter; each projection is fused here, and has to come apart."""
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    dims = ModelDimensions(80, 1500, 64, 2, 2, 51865, 448, 64, 4, 1)
    whole = Whisper(dims)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path / "small.bin"
    path.write_bytes(ctranslate2_bytes(to_ctranslate2(whole)))
    loaded = load_whisper(path)
    assert loaded.dims == dims
    theirs = loaded.state_dict()
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(theirs[key], value, msg=key)


def to_ctranslate2(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    out = {
        "encoder/num_heads": torch.tensor(model.dims.n_audio_head, dtype=torch.int16),
        "decoder/num_heads": torch.tensor(model.dims.n_text_head, dtype=torch.int16),
        "encoder/position_encodings/encodings": state["encoder.positional_embedding"],
        "decoder/position_encodings/encodings": state["decoder.positional_embedding"],
        "decoder/embeddings/weight": state["decoder.token_embedding.weight"],
    }

    def norm(name: str, key: str) -> None:
        out[f"{name}/gamma"], out[f"{name}/beta"] = state[f"{key}.weight"], state[f"{key}.bias"]

    def linear(name: str, *keys: str) -> None:
        out[f"{name}/weight"] = torch.cat([state[f"{key}.weight"] for key in keys])
        zeros = torch.zeros(model.dims.n_audio_state)
        out[f"{name}/bias"] = torch.cat([state.get(f"{key}.bias", zeros) for key in keys])

    for name in ("conv1", "conv2"):
        linear(f"encoder/{name}", f"encoder.{name}")
    norm("encoder/layer_norm", "encoder.ln_post")
    norm("decoder/layer_norm", "decoder.ln")
    for side, count in (("encoder", model.dims.n_audio_layer), ("decoder", model.dims.n_text_layer)):
        for index in range(count):
            theirs, ours = f"{side}/layer_{index}", f"{side}.blocks.{index}"
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
            linear(f"{theirs}/self_attention/linear_0", *(f"{ours}.attn.{n}" for n in ("query", "key", "value")))
            linear(f"{theirs}/self_attention/linear_1", f"{ours}.attn.out")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")
            if side == "decoder":
                norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
                linear(f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
                linear(f"{theirs}/attention/linear_1", f"{ours}.cross_attn.key", f"{ours}.cross_attn.value")
                linear(f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
    return out


# The registry


def test_every_measure_says_its_unit_direction_and_source() -> None:
    keys: list[str] = []
    for name in METRICS:
        metric: type[Metric] = metric_class(name)
        text = metric.__doc__ or ""
        assert "Source:" in text and "is better" in text, name
        for figure in metric.figures:
            assert isinstance(figure, Figure) and figure.title and figure.source
            assert figure.better in ("higher", "lower", None)
            keys.append(figure.key)
    assert len(keys) == len(set(keys))
    with pytest.raises(UserError, match="no measure 'taste'"):
        metric_class("taste")


def test_the_guide_explains_every_figure() -> None:
    guide = (ROOT / "docs/quality.md").read_text(encoding="utf-8")
    for name in METRICS:
        for figure in metric_class(name).figures:
            assert f"`{figure.key}`" in guide, figure.key
