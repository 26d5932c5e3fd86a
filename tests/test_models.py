"""The synthesiser and its discriminators: numbers of the original, variants, precision, randomness, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import models
from models import (
    MultiPeriodDiscriminator,
    SynthesizerTrn,
    prepare_for_inference,
)
from modules import checkpoint
from modules.config import Config
from modules.devices import cpu_has_bf16, fastest_dtype
from modules.errors import UserError
from modules.nn.flows import Coupling
from modules.nn.losses import discriminator_loss, generator_loss, kl_loss
from tests.parity import fill, golden, signals
from tests.synthesiser import GOLDENS, golden_inputs, read_manifest, small_synthesiser, snr_db, song

VARIANTS = ["default", "snake", "vol", "transflow", "transflow_share", "share", "depthwise", "tiny", "noautof0"]
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "snake": {"vocoder_name": "nsf-snake-hifigan"},
    "vol": {"vol_embedding": True},
    "transflow": {"use_transformer_flow": True},
    "transflow_share": {"use_transformer_flow": True, "flow_share_parameter": True},
    "share": {"flow_share_parameter": True},
    "depthwise": {"use_depthwise_conv": True},
    "tiny": {"use_depthwise_conv": True, "flow_share_parameter": True},
    "noautof0": {"use_automatic_f0_prediction": False},
}
B_CASES = [
    *(f"default_{name}" for name in ("ns0.4", "ns0.4_mix", "ns0.4_pf", "ns0")),
    *(f"{name}_{kind}" for name in VARIANTS[1:] for kind in ("ns0.4", "ns0_pf")),
    "vol_ns0.4_pf_mix",
]  # fmt: skip
FULL_SIZE = ["default", "snake", "tiny", "vol", "transflow", "noautof0", "ssl256", "ssl1024"]


def pack_file(name: str, request: pytest.FixtureRequest) -> Path:
    """A file of the pack's goldens: the small copy here, or the pack beside the checkout."""
    copy = GOLDENS / name
    return copy if copy.exists() else request.getfixturevalue("parity_pack") / "goldens" / name


def build(manifest: dict[str, Any], **options: Any) -> SynthesizerTrn:
    model = SynthesizerTrn(
        manifest["spec_channels"], manifest["segment_frames"], **{**manifest["config_model"], **options}
    )
    return model.eval()


def load_filled(module: torch.nn.Module, manifest: dict[str, Any]) -> None:
    """Load a manifest's values, strictly."""
    module.load_state_dict({key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()})


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in module.state_dict().items()}


def expected_shapes(manifest: dict[str, Any]) -> dict[str, list[int]]:
    return {entry[0]: entry[1] for entry in manifest["entries"]}


def train_variant(variant: str, **changes: Any) -> SynthesizerTrn:
    """A small synthesiser with torch's own initialisation, in training mode."""
    manifest = read_manifest(GOLDENS / "manifests/b_default.json")
    torch.manual_seed(0)
    return build(manifest, **CHANGES[variant], **changes).train()


# --- numbers of the original ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", B_CASES)
def test_infer_equals_the_golden(case: str, request: pytest.FixtureRequest) -> None:
    meta, arrays, x = golden_inputs(pack_file(f"b_{case}.npz", request))
    manifest = read_manifest(pack_file(meta["config"]["manifest"], request))
    model = build(manifest)
    load_filled(model, manifest)
    got: dict[str, Tensor] = {}
    model.enc_p.register_forward_hook(lambda _m, _i, out: got.update(m_p=out[0], logs_p=out[1]))
    model.flow.register_forward_hook(lambda _m, inputs, out: got.update(z_p=inputs[0], z=out))
    model.dec.m_source.register_forward_hook(lambda _m, _i, out: got.update(har_source=out))
    call = meta["call"]
    got["audio"], got["f0"] = model.infer(
        x["c"], x["f0"], x["uv"], x["g"], x.get("vol"), call["noice_scale"], call["predict_f0"], call["seed"]
    )
    assert meta["outputs"].keys() == got.keys()
    for name, value in got.items():
        golden.compare(meta, arrays, name, value.numpy())


@pytest.fixture(scope="module")
def discriminator() -> MultiPeriodDiscriminator:
    """The full-size one, with the pack's weights."""
    module = MultiPeriodDiscriminator()
    load_filled(module, read_manifest(GOLDENS / "manifests/sovits_D.json"))
    return module.eval()


@pytest.mark.parametrize("case", ["default", "vol", "noautof0", "snake", "tiny", "transflow"])
def test_forward_equals_the_golden(
    case: str, request: pytest.FixtureRequest, discriminator: MultiPeriodDiscriminator
) -> None:
    """Latents, segment and audio of a training step; for two variants also the discriminators' view of it."""
    from modules.audio.spectrogram import spectrogram
    from modules.nn.segments import slice_segments

    meta, arrays, x = golden_inputs(pack_file(f"c_{case}.npz", request))
    manifest = read_manifest(pack_file(meta["config"]["manifest"], request))
    model = build(manifest)
    load_filled(model, manifest)
    lengths, units = x["lengths"], x["c"].clone()
    audio = torch.zeros(2, 20480)
    for row, length in enumerate(lengths.tolist()):
        sung = signals.voice_like(44100, 40 * 512 / 44100 + 0.01, [180 + 40 * row, 220, 260, -1, 230, 200], seed=row)
        audio[row, : length * 512] = torch.from_numpy(sung[: length * 512])
        units[row, :, length:] = 0
    spec = spectrogram(audio, 2048, 512, 2048)
    for row, length in enumerate(lengths.tolist()):
        spec[row, :, length:] = 0
    with torch.no_grad():
        out = model(
            units, x["f0"], x["uv"], spec, x["g"], lengths, lengths, x.get("vol"), torch.Generator().manual_seed(1234)
        )
    got = {("o" if name == "audio" else name): value for name, value in out._asdict().items()}
    if "y_d_real" in meta["outputs"]:
        real_audio = slice_segments(audio[:, None], out.ids_slice * 512, 10240)
        with torch.no_grad():
            real, generated = discriminator(real_audio, out.audio)
        got["y_d_real"], got["y_d_gen"] = (torch.cat([s.flatten() for s in d.scores]) for d in (real, generated))
        maps = [feature for judged in (real, generated) for features in judged.features for feature in features]
        assert [list(feature.shape) for feature in maps[:37]] == sum(meta["fmap_shapes"], [])
        got["fmap_stats"] = torch.tensor([[m.mean(), m.std(), m.abs().max()] for m in maps])
    for name in meta["outputs"].keys() - {"losses", "y_mel", "y_hat_mel"}:  # tested where the losses are combined
        golden.compare(meta, arrays, name, got[name].numpy())


# --- state dicts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_models_have_the_keys_of_the_original(name: str, parity_pack: Path) -> None:
    manifest = read_manifest(parity_pack / f"manifests/sovits_G_{name}.json")
    with torch.device("meta"):
        model = build(manifest)
        inference_only = build(manifest, with_posterior=False)
    expected = expected_shapes(manifest)
    assert shapes(model) == expected
    assert list(shapes(model)) == list(expected), "an optimizer state numbers its parameters in this order"
    assert {str(value.dtype) for value in model.state_dict().values()} == {"torch.float32"}
    assert shapes(inference_only) == {key: shape for key, shape in expected.items() if not key.startswith("enc_q.")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_small_variants_have_the_keys_of_the_original(variant: str, request: pytest.FixtureRequest) -> None:
    manifest = read_manifest(pack_file(f"manifests/b_{variant}.json", request))
    with torch.device("meta"):
        got = shapes(build(manifest))
    assert got == expected_shapes(manifest)
    assert list(got) == list(expected_shapes(manifest))


def test_discriminators_have_the_keys_of_the_original() -> None:
    with torch.device("meta"):
        keys = shapes(MultiPeriodDiscriminator())
        spectral = shapes(MultiPeriodDiscriminator(use_spectral_norm=True))
    expected = expected_shapes(read_manifest(GOLDENS / "manifests/sovits_D.json"))
    assert keys == expected
    assert list(keys) == list(expected)
    names = {key.rsplit(".", 1)[1] for key in spectral}
    assert names == {"bias", "weight_orig", "weight_u", "weight_v"}
    assert {key.rsplit(".", 1)[0] for key in spectral} == {key.rsplit(".", 1)[0] for key in keys}


@pytest.mark.parametrize("transformer", [False, True])
def test_n_flow_layer_counts_couplings_of_a_transformer_flow_and_else_layers_within_four(transformer: bool) -> None:
    """so-vits-svc 4.1 has two meanings for it, which agree at its default of 4."""
    flow = small_synthesiser(use_transformer_flow=transformer, n_flow_layer=2).flow
    couplings = [coupling for coupling in flow.flows if isinstance(coupling, Coupling)]
    if transformer:
        assert len(couplings) == 2
    else:
        assert [len(coupling.enc.in_layers) for coupling in couplings] == [2] * 4


@pytest.mark.parametrize("variant", ["default", "transflow_share", "snake"])
def test_folding_keeps_the_sound(variant: str) -> None:
    model, x = small_synthesiser(variant), song(12)
    before = model.infer(**x)[0]
    model.fold_weight_norm()
    assert not [key for key in model.state_dict() if key.endswith(("weight_g", "weight_v"))]
    torch.testing.assert_close(model.infer(**x)[0], before, atol=1e-5, rtol=1e-4)


def test_fields_of_the_config_that_are_not_used_are_ignored() -> None:
    assert small_synthesiser(ssl_dim=48, speaker_embedding=True).ssl_dim == 48
    config = Config.model_validate({"model": {"ssl_dim": 48, "invented": 1}})
    with torch.device("meta"):
        assert models.build(config, with_posterior=False).ssl_dim == 48


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("model", "filter_channels", 2**16), ("model", "gin_channels", 2**16), ("data", "filter_length", 2**30)],
)
def test_a_network_that_no_machine_could_train_is_refused_before_it_takes_memory(
    section: str, key: str, value: int
) -> None:
    sizes = {"model": {"hidden_channels": 2**14, "n_speakers": 50_000}, "data": {}}
    sizes[section][key] = value
    with pytest.raises(UserError, match="thousand million parameters") as caught:
        models.build(Config.model_validate(sizes))
    assert f"{section}.{key}" in caught.value.where or "hidden_channels" in caught.value.where


def test_a_large_table_of_speakers_is_not_refused() -> None:
    small = {"hidden_channels": 16, "inter_channels": 16, "upsample_initial_channel": 32, "gin_channels": 16}
    assert models.build(Config.model_validate({"model": {**small, "n_speakers": 1000}})).n_speakers == 1000


def test_a_misspelt_size_is_refused() -> None:
    with pytest.raises(TypeError, match="gin_chanels"):
        small_synthesiser(gin_chanels=48)


# --- infer ---------------------------------------------------------------------------------------------------


def test_infer_neither_uses_nor_changes_the_global_random_numbers() -> None:
    """(A17) The original seeds the global generator in every call, also in the middle of training."""
    model, x = small_synthesiser(), song(10)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = model.infer(**x)[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(model.infer(**x)[0], first)
    assert not torch.equal(model.infer(**x, seed=3)[0], first)


def test_rows_of_a_batch_sound_as_they_would_alone() -> None:
    model, x = small_synthesiser(), song(16, rows=3)
    together, f0 = model.infer(**x, predict_f0=True)
    for row in range(3):
        alone, f0_alone = model.infer(**{key: value[row : row + 1] for key, value in x.items()}, predict_f0=True)
        torch.testing.assert_close(together[row], alone[0], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(f0[row], f0_alone[0], atol=1e-2, rtol=1e-4)


def test_padded_rows_sound_as_they_would_alone() -> None:
    model, x = small_synthesiser(), song(60, rows=2)
    lengths = torch.tensor([60, 45])
    together, _ = model.infer(**x, lengths=lengths)
    alone, _ = model.infer(**{key: value[1:, ..., :45] if value.dim() > 1 else value[1:] for key, value in x.items()})
    # The decoder's convolutions see beyond the end: the last frames differ.
    inside = (45 - 8) * model.hop_length
    torch.testing.assert_close(together[1, :, :inside], alone[0, :, :inside], atol=2e-4, rtol=1e-3)


def test_a_mix_of_one_speaker_is_that_speaker() -> None:
    model, x = small_synthesiser(), song(14, rows=2)
    x["g"] = torch.tensor([2, 2])
    weights = torch.tensor([0.0, 0.0, 1.0]).expand(14, 3)
    single = model.infer(**x)[0]
    for mix in (weights, weights.expand(2, 14, 3)):
        torch.testing.assert_close(model.infer(**{**x, "g": mix})[0], single, atol=1e-5, rtol=1e-4)
    fading = torch.stack((torch.linspace(1, 0, 14), torch.zeros(14), torch.linspace(0, 1, 14)), dim=1)
    assert not torch.allclose(model.infer(**{**x, "g": fading})[0], single, atol=1e-2)


def test_speaker_ids_may_be_a_column() -> None:
    model, x = small_synthesiser(), song(8, rows=2)
    flat = model.infer(**x)[0]
    assert torch.equal(model.infer(**{**x, "g": x["g"][:, None]})[0], flat)


def test_predict_f0_is_ignored_where_the_model_cannot() -> None:
    model = train_variant("noautof0").eval()
    x = song(10)
    audio, f0 = model.infer(**x, predict_f0=True)
    assert torch.equal(f0, x["f0"])
    assert torch.equal(audio, model.infer(**x)[0])


def test_a_model_with_volume_embedding_hears_the_volume_and_asks_for_it() -> None:
    model, x = small_synthesiser("vol"), song(10)
    quiet, loud = (model.infer(**x, volume=torch.full((1, 10), level))[0] for level in (0.01, 0.3))
    assert not torch.allclose(quiet, loud, atol=1e-3)
    with pytest.raises(ValueError, match="volume"):
        model.infer(**x)


def test_high_notes_are_not_taken_for_the_unused_bin() -> None:
    """(A1) A note of 1500 Hz reads the embedding of the highest bin, not the untrained bin 0."""
    model, x = small_synthesiser(), song(10)
    x["f0"] = torch.full((1, 10), 1500.0)
    before = model.infer(**x)[0]
    with torch.no_grad():
        model.enc_p.f0_emb.weight[0] = 1e3
    assert torch.equal(model.infer(**x)[0], before)
    with torch.no_grad():
        model.enc_p.f0_emb.weight[255] += 1
    assert not torch.allclose(model.infer(**x)[0], before, atol=1e-3)


# --- precision -----------------------------------------------------------------------------------------------


def test_a_half_precision_checkpoint_runs_in_fp32(tmp_path: Path) -> None:
    """(A27) The original runs it in float16 on the CPU, or fails for want of matching types."""
    manifest = read_manifest(GOLDENS / "manifests/b_default.json")
    full = small_synthesiser()
    path = tmp_path / "half/G_release.pth"  # a name with "half" in it decides nothing
    path.parent.mkdir()
    checkpoint.save({"model": {key: value.half() for key, value in full.state_dict().items()}}, path)
    model = build(manifest, with_posterior=False)
    state = checkpoint.model_state(checkpoint.load(path), path)
    checkpoint.load_into(model, state, path, ignore=("enc_q.",))
    prepare_for_inference(model, "cpu", "fp32")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    x = song(10)
    assert snr_db(full.infer(**x)[0], model.infer(**x)[0]) > 40


def test_prepared_models_keep_pitch_and_latents_in_fp32() -> None:
    model, x = small_synthesiser(upsample_initial_channel=128), song(12)
    reference = model.infer(**x, predict_f0=True)
    assert prepare_for_inference(model, precision="bf16") is model
    assert model.enc_q is None
    assert not model.training
    in_bf16 = {key.split(".")[0] for key, value in model.named_parameters() if value.dtype == torch.bfloat16}
    assert in_bf16 == {"dec"}
    audio, f0 = model.infer(**x, predict_f0=True)
    assert torch.equal(f0, reference[1])
    assert snr_db(reference[0], audio) > 45


def test_bf16_of_a_full_size_model_stays_within_45_db_of_fp32(parity_pack: Path) -> None:
    manifest = read_manifest(parity_pack / "manifests/sovits_G_default.json")
    entries = [entry for entry in manifest["entries"] if not entry[0].startswith("enc_q.")]
    with torch.device("meta"):
        model = build(manifest, with_posterior=False)
    state = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(entries).items()}
    model.load_state_dict(state, assign=True)
    x = song(24, ssl_dim=768)
    prepare_for_inference(model, precision="fp32")
    reference = model.infer(**x)[0]
    prepare_for_inference(model, precision="bf16")
    assert snr_db(reference, model.infer(**x)[0]) > 45


def test_auto_is_the_fastest_precision_of_the_device() -> None:
    assert fastest_dtype(torch.device("cpu")) == (torch.bfloat16 if cpu_has_bf16() else torch.float32)
    assert fastest_dtype(torch.device("cuda")) == torch.float16
    assert fastest_dtype(torch.device("mps")) == torch.float32
    with pytest.raises(UserError, match="fp32, bf16, fp16"):
        prepare_for_inference(small_synthesiser(), precision="int8")


# --- training ------------------------------------------------------------------------------------------------


def training_inputs(model: SynthesizerTrn, volume: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    lengths = torch.tensor([30, 22])
    return {
        **song(30, rows=2),
        "spec": torch.rand(2, 1025, 30, generator=generator),
        "c_lengths": lengths,
        "spec_lengths": lengths,
        "volume": torch.rand(2, 30, generator=generator) if volume else None,
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_of_every_variant_is_trained(variant: str) -> None:
    """A parameter without a gradient makes DDP wait for it for ever."""
    model = train_variant(variant)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**training_inputs(model, variant == "vol"), generator=torch.Generator().manual_seed(0))
    assert out.audio.shape == (2, 1, 20 * 512)
    assert out.audio.dtype == out.m_p.dtype == out.logs_q.dtype == out.pred_lf0.dtype == torch.float32
    kl = kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.spec_mask)
    (out.audio.square().mean() + kl + (out.pred_lf0 - out.lf0).square().mean()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_a_model_without_automatic_f0_gives_zeros_for_it() -> None:
    model = train_variant("noautof0")
    out = model(**training_inputs(model, False))
    for values in (out.pred_lf0, out.norm_lf0, out.lf0):
        assert values.shape == (2, 1, 30)
        assert not values.any()


def test_a_generator_given_makes_training_steps_repeat() -> None:
    model = train_variant("default", p_dropout=0.0)
    first, second = (
        model(**training_inputs(model, False), generator=torch.Generator().manual_seed(9)) for _ in range(2)
    )
    assert torch.equal(first.audio, second.audio)
    other = model(**training_inputs(model, False), generator=torch.Generator().manual_seed(10))
    assert not torch.equal(first.audio, other.audio)


def test_a_model_without_posterior_says_that_it_cannot_train() -> None:
    model = train_variant("default", with_posterior=False)
    with pytest.raises(AssertionError, match="inference only"):
        model(**training_inputs(model, False))


@pytest.mark.parametrize("spectral", [False, True])
def test_discriminators_judge_two_batches_at_once_as_one_by_one(spectral: bool) -> None:
    torch.manual_seed(0)
    judge = MultiPeriodDiscriminator(use_spectral_norm=spectral, width=0.125).eval()
    real, fake = torch.randn(2, 1, 3001), torch.randn(3, 1, 3001)
    together = judge(real, fake)
    for output, audio in zip(together, (real, fake), strict=True):
        (alone,) = judge(audio)
        assert len(output.scores) == len(output.features) == 6
        for ours, theirs in zip(output.scores, alone.scores, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        for ours, theirs in zip(sum(output.features, []), sum(alone.features, []), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_backward_over_named_inputs_leaves_the_discriminators_without_gradients() -> None:
    """(C5) The generator's loss reaches the audio; no weight of the discriminators gets a gradient from it."""
    judge = MultiPeriodDiscriminator(width=0.125)
    audio = torch.randn(2, 1, 2000, requires_grad=True)
    (judged,) = judge(audio)
    generator_loss(judged.scores).backward(inputs=[audio])
    assert audio.grad is not None and audio.grad.any()
    assert all(parameter.grad is None for parameter in judge.parameters())


@pytest.mark.parametrize("width", [0.25, 0.3, 0.5, 0.75, 1.0])
def test_discriminators_shrink_with_the_square_of_their_width(width: float) -> None:
    with torch.device("meta"):
        full, scaled = (sum(p.numel() for p in MultiPeriodDiscriminator(width=w).parameters()) for w in (1.0, width))
    assert scaled == pytest.approx(full * width**2, rel=0.35)


@pytest.mark.parametrize("width", [0.01, 0.1, 0.3])
def test_narrow_discriminators_train(width: float) -> None:
    torch.manual_seed(0)
    judge = MultiPeriodDiscriminator(width=width)
    real, fake = judge(torch.randn(2, 1, 1500), torch.randn(2, 1, 1500))
    discriminator_loss(real.scores, fake.scores).backward()
    for key, parameter in judge.named_parameters():
        assert parameter.grad is not None and np.isfinite(parameter.grad.norm().item()), key
