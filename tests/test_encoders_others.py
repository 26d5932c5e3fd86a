"""WavLM, DPHuBERT and the ONNX encoders, and what all encoders have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.errors import UserError
from pretrain.weights import BY_NAME
from tests import encoder_files as files
from tests.parity import golden, signals
from vencoder import ENCODERS, get_encoder
from vencoder.dphubert import DphubertEncoder
from vencoder.hubert import HubertEncoder
from vencoder.onnx_encoder import OnnxEncoder
from vencoder.wavlm import WavlmEncoder, bucket_of

WAVLM, DPHUBERT = ("f_wavlm", "f_wavlm_normalize"), ("f_dphubert", "f_dphubert_layernorm")


def write_wavlm(path: Path, state: dict[str, Tensor], cfg: dict[str, Any]) -> Path:
    torch.save({"cfg": cfg, "model": state}, path)
    return path


def write_dphubert(path: Path, state: dict[str, Tensor], config: dict[str, Any]) -> Path:
    torch.save({"config": config, "state_dict": state}, path)
    return path


@pytest.mark.parametrize("name", WAVLM)
def test_wavlm_units_match_the_original(name, tmp_path):
    meta, arrays, manifest, wav = files.load_case(name)
    path = write_wavlm(tmp_path / "w.pt", files.filled(manifest), meta["config"]["cfg"])
    encoder = WavlmEncoder.from_file(path, precision="fp32")
    golden.compare(meta, arrays, "units", encoder.encode(wav).numpy())
    for samples, frames in meta["frames"].items():
        assert encoder.encode(torch.zeros(int(samples))).shape[2] == frames
    assert files.snr(WavlmEncoder.from_file(path).encode(wav), torch.from_numpy(arrays["out_units"])) > 30


@pytest.mark.parametrize("name", DPHUBERT)
def test_dphubert_units_match_the_original(name, tmp_path):
    meta, arrays, manifest, wav = files.load_case(name)
    path = write_dphubert(tmp_path / "d.pth", files.filled(manifest), meta["config"]["config"])
    encoder = DphubertEncoder.from_file(path, precision="fp32")
    golden.compare(meta, arrays, "units", encoder.encode(wav).numpy())
    for samples, frames in meta["frames"].items():
        assert encoder.encode(torch.zeros(int(samples))).shape[2] == frames


def test_dropout_in_a_dphubert_config_is_never_active(tmp_path):
    """(A26)"""
    meta, arrays, manifest, wav = files.load_case("f_dphubert")
    rates = {key: 0.5 for key in meta["config"]["config"] if "dropout" in key or key == "encoder_layer_drop"}
    assert len(rates) >= 5
    config = {**meta["config"]["config"], **rates}
    encoder = DphubertEncoder.from_file(
        write_dphubert(tmp_path / "d.pth", files.filled(manifest), config), precision="fp32"
    )
    golden.compare(meta, arrays, "units", encoder.encode(wav).numpy())
    assert torch.equal(encoder.encode(wav), encoder.encode(wav))


def test_full_size_wavlm_loads_strictly(tmp_path):
    manifest = files.load_manifest("wavlm_base_plus")
    state = files.shapes_only(manifest)
    write_wavlm(tmp_path / "WavLM-Base+.pt", state, manifest["cfg"])
    encoder = get_encoder("wavlmbase+", pretrain_dir=tmp_path)
    assert encoder.width == 768 and len(encoder.model.blocks) == 12
    del state["encoder.layers.7.self_attn.grep_a"]
    write_wavlm(tmp_path / "WavLM-Base+.pt", state, manifest["cfg"])
    with pytest.raises(UserError, match=r"blocks\.7\.attention\.gate_scale"):
        get_encoder("wavlmbase+", pretrain_dir=tmp_path)


def test_full_size_dphubert_loads_strictly_with_its_own_size_in_each_layer(tmp_path):
    manifest = files.load_manifest("dphubert_example")
    state = files.shapes_only(manifest)
    write_dphubert(tmp_path / "DPHuBERT-sp0.75.pth", state, manifest["config"])
    encoder = get_encoder("dphubert", pretrain_dir=tmp_path)
    heads = [block.attention.heads if block.attention else 0 for block in encoder.model.blocks]
    assert heads == manifest["config"]["encoder_num_heads"] and encoder.width == 768
    state["encoder.transformer.layers.0.attention.q_proj.weight"] = torch.zeros(64, 768)
    write_dphubert(tmp_path / "DPHuBERT-sp0.75.pth", state, manifest["config"])
    with pytest.raises(UserError, match=r"blocks\.0\.attention\.qkv\.weight"):
        get_encoder("dphubert", pretrain_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoder_num_heads": None}, "lacks or misstates"),
        ({"encoder_num_heads": [1]}, "lacks or misstates"),
        ({"extractor_conv_layer_config": [[20, 10, 5]]}, "not those of HuBERT"),
        ({"encoder_remaining_heads": [[0]]}, "pruned WavLM"),
    ],
)
def test_dphubert_config_that_makes_no_sense_is_refused(change, reason, tmp_path):
    meta, _, manifest, _ = files.load_case("f_dphubert")
    config = {**meta["config"]["config"], **change}
    with pytest.raises(UserError, match=reason):
        DphubertEncoder.from_file(write_dphubert(tmp_path / "d.pth", files.filled(manifest), config))


def test_relative_position_buckets_are_exact_then_logarithmic():
    near = bucket_of(torch.arange(-7, 8), 32, 80)
    assert near.tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 17, 18, 19, 20, 21, 22, 23]
    assert bucket_of(torch.tensor([-10_000, 10_000]), 32, 80).tolist() == [15, 31]
    assert bucket_of(torch.arange(8, 200), 32, 80).diff().min() >= 0


def torchaudio_model(state: dict[str, Tensor], settings: dict[str, Any], layers: int) -> nn.Module:
    """torchaudio's own HuBERT with the weights of a fairseq file, as a reference that is not ours."""
    import torchaudio

    model = torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(32, 10, 5), *[(32, 3, 2)] * 4, *[(32, 2, 2)] * 2],
        extractor_conv_bias=False,
        encoder_embed_dim=settings["encoder_embed_dim"],
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=settings["conv_pos"],
        encoder_pos_conv_groups=settings["conv_pos_groups"],
        encoder_num_layers=layers,
        encoder_num_heads=settings["encoder_attention_heads"],
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=settings["encoder_ffn_embed_dim"],
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.1,
        aux_num_out=None,
    )
    names = (
        (r"conv_layers\.(\d)\.0\.", r"conv_layers.\1.conv."),
        (r"conv_layers\.(\d)\.2\.", r"conv_layers.\1.layer_norm."),
        (r"^layer_norm\.", "encoder.feature_projection.layer_norm."),
        (r"^post_extract_proj\.", "encoder.feature_projection.projection."),
        (
            r"^encoder\.pos_conv\.0\.weight_g",
            "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original0",
        ),
        (
            r"^encoder\.pos_conv\.0\.weight_v",
            "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1",
        ),
        (r"^encoder\.pos_conv\.0\.", "encoder.transformer.pos_conv_embed.conv."),
        (r"^encoder\.(layers|layer_norm)\.", r"encoder.transformer.\1."),
        (r"\.self_attn\.", ".attention."),
        (r"\.self_attn_layer_norm\.", ".layer_norm."),
        (r"\.fc1\.", ".feed_forward.intermediate_dense."),
        (r"\.fc2\.", ".feed_forward.output_dense."),
    )
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    missing, _ = model.load_state_dict(renamed, strict=False)
    assert not missing
    return model.eval()


@pytest.fixture(scope="module")
def contentvec_graph(tmp_path_factory) -> tuple[Path, Path]:
    """A graph of all 3 layers and the fairseq file of the same weights."""
    meta, _, manifest, _ = files.load_case("f_contentvec")
    folder = tmp_path_factory.mktemp("onnx")
    settings = meta["config"]["cfg_model"]
    state = {
        key: value
        for key, value in files.filled(manifest).items()
        if not re.match(r"encoder\.layers\.([3-9]|1\d)\.", key)
    }
    fairseq = files.write_fairseq(folder / "c.pt", state, settings)
    return files.export_onnx(files.OnnxGraph(torchaudio_model(state, settings, 3), 0, None), folder / "c.onnx"), fairseq


def test_onnx_units_are_those_of_the_torch_encoder_with_the_same_weights(contentvec_graph):
    graph, fairseq = contentvec_graph
    ours, theirs = HubertEncoder.from_file(fairseq, precision="fp32"), OnnxEncoder.from_file(graph)
    for seconds in (0.025, 1.0, 2.51):
        wav = torch.from_numpy(signals.voice_like(16000, seconds))
        torch.testing.assert_close(theirs.encode(wav), ours.encode(wav), atol=1e-4, rtol=1e-3)
    assert theirs.width == 48


def test_onnx_graph_that_pads_itself_gives_a_frame_every_320_samples(tmp_path):
    meta, _, manifest, _ = files.load_case("f_contentvec")
    state, settings = files.filled(manifest), meta["config"]["cfg_model"]
    projection = nn.Linear(48, 16)
    projection.load_state_dict({kind: state[f"final_proj.{kind}"] for kind in ("weight", "bias")})
    path = files.export_onnx(
        files.OnnxGraph(torchaudio_model(state, settings, 12), 40, projection), tmp_path / "s.onnx"
    )
    encoder = OnnxEncoder.from_file(path, pads=True)
    for samples in (400, 16000, 16319):
        assert encoder.encode(torch.zeros(samples)).shape == (1, 16, samples // 320)


def test_long_audio_goes_through_the_graph_in_windows(contentvec_graph, monkeypatch):
    encoder = OnnxEncoder.from_file(contentvec_graph[0])
    longest = []
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda audio: longest.append(len(audio)) or run(audio))
    units = encoder.encode(torch.from_numpy(signals.voice_like(16000, 40.0)))
    assert units.shape == (1, 48, ENCODERS["vec768l12-onnx"].frames(40 * 16000))
    assert len(longest) == 2 and max(longest) <= 30 * 16000


def test_broken_or_foreign_graph_is_one_clear_message(tmp_path, contentvec_graph):
    (tmp_path / "x.onnx").write_bytes(contentvec_graph[0].read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot read the ONNX file"):
        OnnxEncoder.from_file(tmp_path / "x.onnx")
    linear = nn.Sequential(nn.Flatten(1), nn.Linear(16000, 4))
    with pytest.raises(UserError, match=r"no units"):
        OnnxEncoder.from_file(files.export_onnx(linear, tmp_path / "y.onnx"))


def test_registry_names_every_encoder_of_the_original_and_its_weights():
    original = {
        "vec768l12", "vec256l9", "vec256l9-onnx", "vec256l12-onnx", "vec768l9-onnx", "vec768l12-onnx", "hubertsoft",
        "hubertsoft-onnx", "whisper-ppg", "whisper-ppg-large", "cnhubertlarge", "dphubert", "wavlmbase+",
    }  # fmt: skip
    assert original <= ENCODERS.keys()
    for name, spec in ENCODERS.items():
        assert spec.name == name and spec.width in (256, 384, 512, 768, 1024, 1280)
        assert name in BY_NAME[spec.weight].serves and spec.file == BY_NAME[spec.weight].file


def test_frame_rules_of_the_registry_are_those_of_the_original():
    for case, name in (("f_contentvec", "vec768l12"), ("f_wavlm", "wavlmbase+"), ("f_whisper_ppg", "whisper-ppg")):
        for samples, frames in files.load_case(case)[0]["frames"].items():
            assert ENCODERS[name].frames(int(samples)) == frames
    meta, _ = golden.load(files.GOLDENS / "f_hubertsoft.npz")
    for samples, frames in meta["frames"].items():
        assert ENCODERS["hubertsoft"].frames(int(samples)) == frames
