"""Shallow diffusion, second encoding, diffusion alone and the enhancer inside a conversion."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import inference_main
import models
from diffusion.unit2mel import build_unit2mel
from modules import checkpoint
from modules.config import Config, DiffusionConfig
from modules.errors import UserError
from modules.inference import networks
from modules.inference import voice as voice_module
from modules.inference.networks import TorchEncoder, TorchGenerator, TorchMelModel, TorchNetworks, TorchVocoder
from modules.inference.options import InferenceOptions, ModelOptions
from modules.inference.pitch import PitchFinder
from modules.inference.speaker_mix import SpeakerMix
from modules.inference.svc import Svc
from modules.inference.voice import DiffusionVoice, Enhancer, ShallowDiffusion, Voice, load_voice
from modules.inference.windows import WindowInput
from tests.parity import golden, signals
from tests.standin_voice import HOP, RATE, WIDTH, small_config, write_encoder, write_model
from tests.test_inference_goldens import FLAGS, filled, likeness, original_filter
from tests.test_mel_vocoder import GOLDENS, write_vocoder
from vdecoder.mel_vocoder import MelGenerator, MelVocoder, VocoderConfig
from vencoder.hubert import HubertModel, HubertSizes
from vencoder.hubert_soft import HubertSoftEncoder, rename

CPU = torch.device("cpu")
FRAMES = [466, 337]  # of the two pieces of the golden song
CASES = {
    "i_shallow20": (215, 164),
    "i_shallow20_second": (215, 164),
    "i_only_diffusion": (215, 164),
    "i_enhance": (215, 164),
    "i_enhance_key2": (228, 224),
}  # by how many samples the original moves each piece (A4)


class Remembering:
    """An encoder that hears nothing twice: the cases have one song."""

    def __init__(self, encoder: HubertSoftEncoder) -> None:
        self.encoder, self.width = encoder, encoder.width
        self.heard: dict[bytes, torch.Tensor] = {}

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        key = audio.numpy().tobytes()
        if key not in self.heard:
            self.heard[key] = self.encoder.encode(audio)
        return self.heard[key]


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """The golden's generator, encoder, diffusion model and vocoder."""

    def manifest(name: str) -> dict[str, torch.Tensor]:
        return filled(json.loads((GOLDENS / f"manifests/{name}.json").read_text(encoding="utf-8")))

    meta, _ = golden.load(GOLDENS / "i_shallow20.npz")
    config = Config.model_validate(meta["config"]["config_json"])
    hubert = HubertModel(HubertSizes(projection=256))
    checkpoint.load_into(hubert, rename(manifest("hubert_soft")), "hubert_soft")
    generator = models.SynthesizerTrn(
        config.spec_channels, config.segment_frames, with_posterior=False, **config.model.model_dump()
    )
    checkpoint.load_into(generator, manifest("i_G"), "i_G", ignore=("enc_q.",))
    diffusion_config = DiffusionConfig.model_validate(meta["config"]["diffusion_yaml"])
    unit2mel = build_unit2mel(diffusion_config).eval()
    checkpoint.load_into(unit2mel, {**unit2mel.state_dict(), **manifest("i_diffusion")}, "i_diffusion")
    vocoder_config = VocoderConfig.from_dict(meta["config"]["vocoder_config_json"])
    mel_generator = MelGenerator(vocoder_config)
    checkpoint.load_into(mel_generator, manifest("i_vocoder"), "i_vocoder")
    return {
        "generator": TorchGenerator(config, models.prepare_for_inference(generator, "cpu", "fp32"), CPU),
        "encoder": TorchEncoder(Remembering(HubertSoftEncoder(hubert, "cpu", "fp32"))),  # type: ignore[arg-type]
        "mel_model": TorchMelModel(diffusion_config, unit2mel, MelVocoder(vocoder_config, mel_generator)),
    }


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The golden song, as a file of 16 bits holds it."""
    meta, _ = golden.load(GOLDENS / "i_shallow20.npz")
    path = tmp_path_factory.mktemp("song") / "in.wav"
    soundfile.write(path, golden.make_input(meta["inputs"]["wav"]), RATE, subtype="PCM_16")
    return soundfile.read(path, dtype="float32")[0]


def voice_of(case: str, parts: dict[str, Any]) -> Voice | DiffusionVoice:
    mel_model, generator = parts["mel_model"], parts["generator"]
    if case == "i_only_diffusion":
        return DiffusionVoice(parts["encoder"], mel_model)
    if "enhance" in case:
        return Voice(parts["encoder"], generator, refiners=[Enhancer(TorchVocoder(mel_model.vocoder))])
    return Voice(parts["encoder"], generator, refiners=[ShallowDiffusion(mel_model, generator.speakers)])


def golden_noise(case: str) -> Callable[[int, torch.device], torch.Generator]:
    """The original draws all noise of a window from one generator; diffusion alone draws on over all windows."""
    if case == "i_only_diffusion":
        one = torch.Generator().manual_seed(1234)
        return lambda seed, device: one
    frames = iter(FRAMES)

    def after_the_generator(seed: int, device: torch.device) -> torch.Generator:
        generator, n = torch.Generator().manual_seed(52468), next(frames)
        for draw, shape in ((torch.randn, (1, 32, n)), (torch.rand, (1, 9)), (torch.randn, (1, n * HOP, 9))):
            draw(shape, generator=generator)
        torch.randn(1, n * HOP, 1, generator=generator)
        return generator

    return after_the_generator


@pytest.mark.parametrize("case", CASES)
def test_conversion_equals_the_original_but_for_its_faults(
    case: str, parts: dict[str, Any], song: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice_module, "resample", original_filter)
    monkeypatch.setattr(networks, "seeded", golden_noise(case))
    meta, arrays = golden.load(GOLDENS / f"{case}.npz")
    call = meta["call"]
    ours = {name: call[theirs] for name, theirs in FLAGS.items()}
    ours |= {name: call[name] for name in ("k_step", "second_encoding", "enhancer_adaptive_key")}
    voice = voice_of(case, parts)
    svc = Svc(voice, PitchFinder(RATE, HOP))
    got, _ = svc.convert(song, call["spk"], InferenceOptions(**ours))
    assert [len(got)] == meta["outputs"]["audio"]["shape"]
    for (start, stop), offset in zip(((0, 194922), (194922, 323694)), CASES[case], strict=True):
        assert likeness(arrays, got, start, stop, offset) > 0.9999
        assert abs(likeness(arrays, got, start, stop, 0)) < 0.5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as a user has them: a voice, its diffusion model with other ids, the vocoder, the encoder, a song."""
    root = tmp_path_factory.mktemp("home")
    write_model(root / "logs/44k", name="G_1.pth")
    write_encoder(root / "pretrain")
    write_vocoder(root / "pretrain/nsf_hifigan")
    write_diffusion(root / "logs/44k/diffusion")
    (root / "raw").mkdir()
    soundfile.write(root / "raw/song.wav", signals.voice_like(RATE, 1.0, [200, 240, 220]), RATE)
    return root


def write_diffusion(folder: Path, spk: dict[str, int] | None = None, **model: Any) -> None:
    sizes = {"n_layers": 2, "n_chans": 16, "n_hidden": 8, "timesteps": 100, "n_spk": 3}
    config = DiffusionConfig.model_validate(
        {
            "data": {"encoder": "whisper-ppg-tiny", "encoder_out_channels": WIDTH, "unit_interpolate_mode": "nearest"},
            "model": {**sizes, **model},
            "spk": {"alice": 2, "bob": 0} if spk is None else spk,
        }
    )
    torch.manual_seed(3)
    network = build_unit2mel(config)
    torch.nn.init.normal_(network.decoder.denoise_fn.output_projection.weight, std=0.05)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": 0, "model": network.state_dict()}, folder / "model_0.pt")
    config.save(folder / "config.yaml")


@pytest.fixture
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("logs", "pretrain", "raw"):
        (tmp_path / name).symlink_to(home / name)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def run(*args: str) -> int:
    return inference_main.main(
        ["-m", "logs/44k/G_1.pth", "-c", "logs/44k/config.json", "-d", "cpu", "-n", "song", *args]
    )


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "results").glob("*"))


def read(folder: Path, name: str) -> np.ndarray:
    return soundfile.read(folder / "results" / name)[0]


@pytest.mark.parametrize(
    "flags,kind",
    [
        (["-shd"], "sovdiff"),
        (["-shd", "-se"], "sovdiff"),
        (["-od"], "diff"),
        (["-eh"], "sovits"),
        (["-od", "-eh"], "diff"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("speaker", ["alice", "1"])
def test_every_mode_sings_from_the_command_line(at_home: Path, flags: list[str], kind: str, speaker: str) -> None:
    """(B5) Diffusion alone takes integer speakers, and the enhancer after it."""
    who = "0" if speaker == "1" and "-od" in flags else speaker
    assert run("-s", who, "-ks", "20", *flags) == 0
    name = f"song_0key_{who}_{kind}_pm.flac"
    assert results(at_home) == [name]
    audio = read(at_home, name)
    assert len(audio) == RATE and np.isfinite(audio).all() and np.abs(audio).max() > 1e-4


@pytest.mark.parametrize("k_step", [1, 2, 7, 19, 100])
def test_any_k_step_sings(at_home: Path, k_step: int) -> None:
    """(B9)"""
    assert run("-s", "alice", "-shd", "-ks", str(k_step)) == 0
    audio = read(at_home, "song_0key_alice_sovdiff_pm.flac")
    assert len(audio) == RATE and np.isfinite(audio).all()


def test_every_part_changes_the_sound(at_home: Path) -> None:
    """No flag is taken and then ignored; -shd switches -eh off."""
    sung = {}
    ways = {
        "": [],
        "shd": ["-shd"],
        "shd30": ["-shd", "-ks", "30"],
        "se": ["-shd", "-se"],
        "od": ["-od"],
        "eh": ["-eh"],
    }
    ways |= {"eh5": ["-eh", "-eak", "5"], "shd eh": ["-shd", "-eh"]}
    for name, flags in ways.items():
        assert run("-s", "alice", "-wf", "wav", *flags) == 0
        (result,) = results(at_home)
        sung[name] = read(at_home, result)
        (at_home / "results" / result).unlink()
    np.testing.assert_array_equal(sung.pop("shd eh"), sung["shd"])
    names = list(sung)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert np.abs(sung[one] - sung[other]).max() > 1e-4, (one, other)


def test_one_seed_gives_one_audio_and_leaves_torchs_random_numbers_alone(at_home: Path) -> None:
    options = ModelOptions(Path("logs/44k/G_1.pth"), Path("logs/44k/config.json"), device="cpu", shallow_diffusion=True)
    window = WindowInput(signals.voice_like(RATE, 1.0, [200, 230]), np.full(86, 210.0), np.ones(86), 0)
    for loaded in (options, dataclasses.replace(options, shallow_diffusion=False, only_diffusion=True)):
        voice = load_voice(TorchNetworks(loaded), loaded)
        state = torch.get_rng_state()
        first = voice.render(window, InferenceOptions())
        assert torch.equal(state, torch.get_rng_state())
        torch.manual_seed(99)
        np.testing.assert_array_equal(voice.render(window, InferenceOptions()), first)
        assert np.abs(voice.render(window, InferenceOptions(seed=1)) - first).max() > 1e-4


def test_shallow_diffusion_knows_a_singer_by_name_where_its_ids_are_others(at_home: Path) -> None:
    """A mix of one singer alone is that singer, in both models."""
    options = ModelOptions(Path("logs/44k/G_1.pth"), Path("logs/44k/config.json"), device="cpu", shallow_diffusion=True)
    voice = load_voice(TorchNetworks(options), options)
    refiner = voice.refiners[0]
    assert isinstance(refiner, ShallowDiffusion)
    assert refiner._translate(0) == 2  # alice
    weights = np.tile(np.array([0.25, 0.75], dtype=np.float32), (5, 1))
    translated = refiner._translate(weights)
    assert isinstance(translated, np.ndarray)
    assert translated[3].tolist() == [0.75, 0.0, 0.25]
    with pytest.raises(UserError, match="not trained on speaker 7"):
        refiner._translate(7)
    svc = Svc(voice, PitchFinder(RATE, HOP))
    song = signals.voice_like(RATE, 1.0, [200, 240, 220])
    mix = SpeakerMix.from_map({"alice": [[0, 1, 0, 0]], "bob": [[0, 1, 1, 1]]}, svc.speakers, svc.n_speakers)
    mixed, alone = (svc.convert(song, who, InferenceOptions(k_step=40))[0] for who in (mix, "bob"))
    np.testing.assert_allclose(mixed, alone, atol=1e-3)
    assert np.abs(svc.convert(song, "alice", InferenceOptions(k_step=40))[0] - alone).max() > 1e-3


@pytest.mark.parametrize("takes_volume", [True, False])
def test_shallow_diffusion_is_as_loud_as_the_generator_was_told_to_be(takes_volume: bool) -> None:
    """Torch and graphs share this: the song's volume where the model has volume embedding, else the audio's."""
    told: dict[str, np.ndarray] = {}

    class MelModel:
        sample_rate, hop_length, speakers, n_speakers, unit_mode = RATE, HOP, {"alice": 0}, 1, "left"
        timesteps = k_step_max = 100

        def infer(self, units: np.ndarray, f0: np.ndarray, volume: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
            told["volume"] = volume
            return np.zeros(len(f0) * HOP, np.float32)

    class Loud(MelModel):
        hums_in_rests = False

        def __init__(self) -> None:
            self.takes_volume = takes_volume

        def infer(self, units: np.ndarray, f0: np.ndarray, *rest: Any, **more: Any) -> Any:
            return np.full(len(f0) * HOP, 0.5, np.float32), f0

    class Encoder:
        def encode(self, audio: np.ndarray) -> np.ndarray:
            return np.zeros((50, 4), np.float32)

    voice = Voice(Encoder(), Loud(), refiners=[ShallowDiffusion(MelModel(), {"alice": 0})])  # type: ignore[arg-type]
    window = WindowInput(np.full(86 * HOP, 0.1, np.float32), np.full(86, 210.0), np.ones(86), 0)
    voice.render(window, InferenceOptions())
    np.testing.assert_allclose(told["volume"], np.full(86, 0.1 if takes_volume else 0.5), rtol=1e-5)


def test_a_mix_sings_in_every_mode(at_home: Path) -> None:
    """(B4) With several speakers."""
    base = ModelOptions(Path("logs/44k/G_1.pth"), Path("logs/44k/config.json"), device="cpu")
    song = signals.voice_like(RATE, 1.0, [200, 240, 220])
    tracks = {"alice": [[0, 1, 1, 0]], "bob": [[0, 1, 0, 1]]}
    for change in ({"shallow_diffusion": True}, {"only_diffusion": True}, {"enhance": True}):
        svc = Svc.load(dataclasses.replace(base, **change))  # type: ignore[arg-type]
        mix = SpeakerMix.from_map(tracks, svc.speakers, svc.n_speakers)
        mixed = svc.convert(song, mix)[0]
        assert len(mixed) == len(song) and np.isfinite(mixed).all()
        assert np.abs(mixed - svc.convert(song, "alice")[0]).max() > 1e-4


def test_diffusion_alone_needs_no_generator_and_has_its_own_speakers(at_home: Path) -> None:
    """(B5)"""
    options = ModelOptions(Path("nowhere/G_1.pth"), Path("nowhere/config.json"), device="cpu", only_diffusion=True)
    svc = Svc.load(options)
    assert svc.speakers == {"alice": 2, "bob": 0} and svc.n_speakers == 3
    assert svc.sample_rate == RATE
    svc.unload()  # (B8) there is no generator to move away
    assert svc.voice is None


@pytest.mark.parametrize(
    "model,flags,named",
    [
        ({"k_step_max": 40}, ["-od"], "trained on the last 40 of 100 steps"),
        ({"k_step_max": 40}, ["-shd", "-ks", "41"], "k_step is 41"),
        ({}, ["-shd", "-ks", "101"], "k_step is 101"),
        ({}, ["-shd", "-ks", "0"], "--k_step"),
        ({}, ["-se"], "--second_encoding"),
        ({}, ["-od", "-se"], "--second_encoding"),
        ({}, ["-od", "-a"], "--auto_predict_f0"),
        ({"n_chans": 32}, ["-shd"], "do not fit"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_anything_is_sung(
    at_home: Path, capsys: pytest.CaptureFixture[str], model: dict[str, int], flags: list[str], named: str
) -> None:
    """(B9) With the reason, in one message."""
    folder = at_home / "other"
    write_diffusion(folder, **model)
    if "n_chans" in model:
        write_diffusion(at_home / "third")
        (folder / "model_0.pt").write_bytes((at_home / "third/model_0.pt").read_bytes())
    assert run("-s", "alice", "-dm", str(folder / "model_0.pt"), "-dc", str(folder / "config.yaml"), *flags) == 2
    message = capsys.readouterr().err
    assert named in message and "Traceback" not in message
    assert not results(at_home)


def test_a_shallow_only_model_sings_within_its_steps(at_home: Path) -> None:
    write_diffusion(at_home / "other", k_step_max=40)
    files = ["-dm", "other/model_0.pt", "-dc", "other/config.yaml"]
    assert run("-s", "alice", "-shd", "-ks", "40", *files) == 0


@pytest.mark.parametrize("lost", ["model", "config", "vocoder"])
@pytest.mark.parametrize("flag", ["-shd", "-od"])
def test_a_missing_file_is_named(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    lost: str,
) -> None:
    """(B5) The original looks for the model twice and for its config never."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").symlink_to(home / "raw")
    write_encoder(tmp_path / "pretrain")
    if lost != "vocoder":
        write_vocoder(tmp_path / "pretrain/nsf_hifigan")
    write_model(tmp_path / "logs/44k", name="G_1.pth")
    folder = tmp_path / "logs/44k/diffusion"
    write_diffusion(folder)
    if lost != "vocoder":
        (folder / {"model": "model_0.pt", "config": "config.yaml"}[lost]).unlink()
    assert run("-s", "alice", flag) == 2
    message = capsys.readouterr().err
    expected = {
        "model": "model_0.pt",
        "config": "config.yaml",
        "vocoder": str(Path("pretrain/nsf_hifigan/model")),
    }
    assert expected[lost] in message and "to do:" in message


def test_a_diffusion_model_of_another_voice_is_refused(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_config(ssl_dim=WIDTH, speech_encoder="whisper-ppg-tiny").save(at_home / "config.json")
    write_diffusion(at_home / "other", spk={"carol": 1})
    files = ["-dm", "other/model_0.pt", "-dc", "other/config.yaml"]
    assert run("-s", "alice", "-shd", *files) == 1
    assert "not trained on alice; it knows carol" in capsys.readouterr().err
    config = (at_home / "other/config.yaml").read_text()
    (at_home / "other/config.yaml").write_text(config.replace("block_size: 512", "block_size: 256"))
    assert run("-s", "alice", "-shd", *files) == 2
    assert "512" in capsys.readouterr().err


def test_progress_of_the_sampler_is_silent_without_a_terminal(
    at_home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import progress

    assert run("-s", "alice", "-shd") == 0
    assert "diffusion" not in capfd.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress._console.cache_clear()
    with progress.meter("song") as show:  # one bar below another
        assert list(progress.bar_on_terminal([1, 2, 3], "diffusion")) == [1, 2, 3]
        show(1.0)
    progress._console.cache_clear()
