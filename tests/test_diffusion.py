"""Unit2Mel and its samplers: the published numbers, convergence, speaker mixes, any depth of shallow diffusion."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusion.samplers import SAMPLERS, sample
from diffusion.schedule import NoiseSchedule
from diffusion.unit2mel import Unit2Mel
from modules.errors import UserError
from tests.parity import fill, golden

GOLDENS = Path(__file__).parent / "parity" / "goldens"
CASES = sorted(path.stem for path in GOLDENS.glob("d_*.npz"))
SAMPLED = [case for case in CASES if "full" in case or "shallow" in case]
METHODS = [*SAMPLERS, None]


def filled(config: dict[str, Any], manifest: dict[str, Any]) -> Unit2Mel:
    """A model with the pack's weights; fails when a key or a shape differs from the manifest."""
    model = Unit2Mel(**config)
    state = model.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == {e[0]: e[1] for e in manifest["entries"]}
    state.update({key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()})
    model.load_state_dict(state)
    return model.eval()


def load_case(case: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, torch.Tensor], Unit2Mel]:
    meta, arrays = golden.load(GOLDENS / f"{case}.npz")
    inputs = {name: torch.from_numpy(value) for name, value in golden.inputs(meta, arrays).items()}
    manifest = json.loads((GOLDENS / meta["config"]["manifest"]).read_text())
    return meta, arrays, inputs, filled(meta["config"]["model"], manifest)


def seeded(seed: int = 1234) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditions(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return inputs["units"], inputs["f0"], inputs["volume"]


@pytest.mark.parametrize("case", ["d_kmax0_cond", "d_kmax40_cond"])
@torch.no_grad()
def test_condition_denoiser_and_schedule_equal_the_published_numbers(case: str) -> None:
    meta, arrays, inputs, model = load_case(case)
    condition = model.condition(*conditions(inputs), inputs["spk_id"])
    golden.compare(meta, arrays, "condition", condition.numpy())
    noise = model.decoder.denoise_fn(inputs["x_t"], torch.tensor([7]), condition.transpose(1, 2))
    golden.compare(meta, arrays, "denoise_t7", noise.numpy())
    buffers = [name for name in meta["outputs"] if name.startswith("buffer_")]
    assert buffers
    for name in buffers:
        golden.compare(meta, arrays, name, model.decoder.get_buffer(name.removeprefix("buffer_")).numpy())
    if "condition_aug_shift_2.5" in meta["outputs"]:
        shifted = model.condition(*conditions(inputs), inputs["spk_id"], inputs["aug_shift"])
        golden.compare(meta, arrays, "condition_aug_shift_2.5", shifted.numpy())


@pytest.mark.parametrize("case", ["d_kmax0_loss", "d_kmax40_loss"])
@torch.no_grad()
def test_training_loss_equals_the_published_numbers(case: str) -> None:
    meta, arrays, inputs, model = load_case(case)
    arguments = (*conditions(inputs), inputs["spk_id"], inputs["gt_spec"])
    drawn = model(*arguments, inputs.get("aug_shift"), generator=seeded())
    golden.compare(meta, arrays, "loss", drawn.numpy())
    given = model(*arguments, step=inputs["t"], noise=inputs["noise"])
    golden.compare(meta, arrays, "loss_fixed_t_noise", given.numpy())
    normalised = model.decoder.normalise(inputs["gt_spec"]).transpose(1, 2).unsqueeze(1)
    noisy = model.decoder.to_noisy(normalised, inputs["t"], inputs["noise"])
    golden.compare(meta, arrays, "q_sample", noisy.numpy())


def mix_weights(mix: dict[int, float], model: Unit2Mel, frames: int) -> torch.Tensor:
    """The published program's mix by dict as weights [frames, speakers]."""
    assert model.spk_embed is not None
    weights = torch.zeros(model.spk_embed.num_embeddings)
    weights[list(mix)] = torch.tensor(list(mix.values()))
    return weights.expand(frames, -1)


@pytest.mark.parametrize("case", SAMPLED)
def test_sampled_mel_equals_the_published_one(case: str) -> None:
    """With the mixes by dict and by frame among them (B4)."""
    meta, arrays, inputs, model = load_case(case)
    call = meta["call"]
    speaker: Any = inputs["spk_id"]
    if "mix_weights" in inputs:
        speaker = inputs["mix_weights"]
    elif call["spk_mix_dict"]:
        frames = inputs["units"].shape[1]
        speaker = mix_weights({int(index): weight for index, weight in call["spk_mix_dict"].items()}, model, frames)
    mel = model.infer(
        *conditions(inputs),
        speaker,
        source_mel=inputs["gt_spec"] if call["gt_spec"] else None,
        k_step=call["k_step"],
        speedup=call["infer_speedup"],
        method=call["method"],
        generator=seeded(),
    )
    golden.compare(meta, arrays, "mel", mel.numpy())


def test_the_pack_covers_every_sampler_full_and_shallow() -> None:
    called = {(golden.load(GOLDENS / f"{case}.npz")[0]["call"]["method"], "full" in case) for case in SAMPLED}
    assert called >= {(method, full) for method in SAMPLERS for full in (True, False)}


@pytest.mark.parametrize("name", ["diffusion_unit2mel", "diffusion_unit2mel_nspk5"])
def test_full_size_checkpoints_load_strictly(name: str, parity_pack: Path) -> None:
    manifest = json.loads((parity_pack / "manifests" / f"{name}.json").read_text())
    with torch.device("meta"):
        model = Unit2Mel(**manifest["config"])
    state = {entry[0]: torch.empty(entry[1], device="meta") for entry in manifest["entries"]}
    model.load_state_dict(state, strict=True, assign=True)


@pytest.mark.parametrize("method", list(SAMPLERS))
@torch.inference_mode()
def test_more_steps_come_closer_to_the_1000_step_result(method: str) -> None:
    meta, _, inputs, _ = load_case("d_kmax0_full_ddim_x10")
    manifest = json.loads((GOLDENS / meta["config"]["manifest"]).read_text())
    model = Unit2Mel(**{**meta["config"]["model"], "timesteps": 1000})
    weights = {key: torch.from_numpy(value) for key, value in fill.fill_state_dict(manifest).items()}
    model.load_state_dict({**model.state_dict(), **weights})
    denoiser = model.decoder.denoise_fn
    condition = model.condition(*conditions(inputs), inputs["spk_id"]).transpose(1, 2)
    projections = denoiser.project(condition)

    def predict_noise(x: torch.Tensor, step: float) -> torch.Tensor:
        return denoiser.denoise(x, x.new_full((1,), step), projections)

    schedule = NoiseSchedule(1000)
    x = torch.randn(1, 1, 128, 25, generator=seeded())
    exact = SAMPLERS["ddim"](predict_noise, x, schedule, 1, iter)
    own = SAMPLERS[method](predict_noise, x, schedule, 1, iter)
    scale = exact.abs().mean()
    assert (own - exact).abs().mean() < 0.003 * scale
    errors = [
        float((SAMPLERS[method](predict_noise, x, schedule, 1000 // steps, iter) - exact).abs().mean() / scale)
        for steps in (10, 20, 100)
    ]
    assert errors[0] > 1.2 * errors[1] > 1.2 * 1.2 * errors[2]


@pytest.mark.parametrize("method", METHODS)
def test_any_k_step_from_1_gives_a_mel(method: str | None) -> None:
    """(B9)"""
    _, _, inputs, model = load_case("d_kmax0_loss")
    source = inputs["gt_spec"]
    for k_step in (1, 2, 3, 5, 9, 10, 11, 15, 19, 20, 21):
        for speedup in (1, 2, 10, 50):
            mel = model.infer(
                *conditions(inputs), inputs["spk_id"], source, k_step, speedup, method, generator=seeded()
            )
            assert mel.shape == source.shape
            assert torch.isfinite(mel).all()
            assert not torch.equal(mel, source)


def test_evaluations_follow_the_speedup_and_never_fall_below_the_order() -> None:
    """(B9) And none is spent on a step that changes nothing."""
    for method in SAMPLERS:
        for steps, speedup, expected in ((1000, 10, 100), (100, 10, 10), (20, 10, 2), (5, 10, 2), (2, 10, 2)):
            calls: list[float] = []

            def predict_noise(x: torch.Tensor, step: float, calls: list[float] = calls) -> torch.Tensor:
                calls.append(step)
                return 0.1 * x

            sample(method, predict_noise, torch.ones(1, 1, 2, 3), NoiseSchedule(1000, steps), speedup)
            assert abs(len(calls) - expected) <= 1, (method, steps, speedup, calls)
            assert calls[0] <= steps - 1


def test_a_frame_mix_of_one_speaker_equals_that_speaker() -> None:
    """(B4) Ids, weights by id and weights by frame mean the same."""
    _, _, inputs, model = load_case("d_kmax0_loss")
    frames = inputs["units"].shape[1]

    def mel(speaker: Any) -> torch.Tensor:
        return model.infer(*conditions(inputs), speaker, method="unipc", generator=seeded())

    alone = mel(torch.tensor([2]))
    assert not torch.allclose(alone, mel(torch.tensor([1])), atol=1e-2)
    weights = torch.zeros(frames, 3)
    weights[:, 2] = 1
    for speaker in (weights, weights.unsqueeze(0), mix_weights({2: 1.0}, model, frames)):
        torch.testing.assert_close(mel(speaker), alone, atol=1e-4, rtol=1e-4)


def test_rows_of_a_batch_are_conditioned_on_their_own_speaker() -> None:
    _, _, inputs, model = load_case("d_kmax0_loss")
    rows = [torch.cat([value, value]) for value in conditions(inputs)]
    both = model.condition(*rows, torch.tensor([[0], [2]]))
    for row, speaker in enumerate((0, 2)):
        torch.testing.assert_close(both[row], model.condition(*conditions(inputs), torch.tensor([speaker]))[0])


def test_pndm_takes_a_batch() -> None:
    _, _, inputs, model = load_case("d_kmax0_loss")
    rows = [torch.cat([value, value]) for value in conditions(inputs)]
    mel = model.infer(*rows, torch.tensor([0, 1]), method="pndm", generator=seeded())
    assert mel.shape == (2, 25, 128) and torch.isfinite(mel).all()


def test_sampling_neither_reads_nor_moves_the_global_generator() -> None:
    _, _, inputs, model = load_case("d_kmax0_loss")
    for method, speedup in (("unipc", 10), (None, 1)):
        torch.manual_seed(5)
        state = torch.random.get_rng_state()
        first = model.infer(*conditions(inputs), inputs["spk_id"], speedup=speedup, method=method, generator=seeded())
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(6)
        again = model.infer(*conditions(inputs), inputs["spk_id"], speedup=speedup, method=method, generator=seeded())
        assert torch.equal(first, again)


def test_a_shallow_only_model_refuses_only_diffusion_and_deeper_steps() -> None:
    _, _, inputs, model = load_case("d_kmax40_loss")
    arguments = (*conditions(inputs), inputs["spk_id"])
    with pytest.raises(UserError, match="last 40 of 100 steps"):
        model.infer(*arguments)
    with pytest.raises(UserError, match="k_step is 41"):
        model.infer(*arguments, inputs["gt_spec"], k_step=41)
    with pytest.raises(UserError, match="k_step is 0"):
        model.infer(*arguments, inputs["gt_spec"], k_step=0)
    assert model.infer(*arguments, inputs["gt_spec"], k_step=40, generator=seeded()).shape == (1, 25, 128)


def test_an_unknown_sampler_is_named_with_the_choices() -> None:
    _, _, inputs, model = load_case("d_kmax0_loss")
    with pytest.raises(UserError, match="euler") as error:
        model.infer(*conditions(inputs), inputs["spk_id"], method="euler")
    assert "unipc" in error.value.fix


def test_the_condition_is_projected_once_for_all_steps() -> None:
    _, _, inputs, model = load_case("d_kmax0_loss")
    calls = []
    layer = model.decoder.denoise_fn.residual_layers[0].conditioner_projection
    layer.register_forward_hook(lambda *_: calls.append(1))
    model.infer(*conditions(inputs), inputs["spk_id"], method="ddim", generator=seeded())
    assert len(calls) == 1


def test_a_checkpoint_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    from diffusion.unit2mel import build_unit2mel, load_unit2mel
    from modules.config import DiffusionConfig

    small = {"n_layers": 2, "n_chans": 16, "n_hidden": 8, "timesteps": 20}
    config = DiffusionConfig.model_validate({"model": small, "data": {"encoder_out_channels": 24}})
    path = tmp_path / "model_5.pt"
    torch.save({"global_step": 5, "model": build_unit2mel(config).state_dict()}, path)
    assert load_unit2mel(path, config).timesteps == 20
    config.model.n_chans = 32
    with pytest.raises(UserError, match="do not fit") as error:
        load_unit2mel(path, config)
    assert "model_5.pt" in error.value.where
    torch.save({"model": io.StringIO}, path)
    with pytest.raises(UserError):
        load_unit2mel(path, config)


@pytest.mark.parametrize("method", ["dpm-solver++", "unipc", "ddim"])
def test_a_denoiser_in_bfloat16_stays_close_to_float32(method: str) -> None:
    """20 layers, and noise of the size that a trained model predicts."""
    torch.manual_seed(0)
    model = Unit2Mel(32, n_chans=128, n_hidden=64).eval()
    denoiser, frames = model.decoder.denoise_fn, 40
    torch.nn.init.normal_(denoiser.output_projection.weight, std=0.05)
    with torch.no_grad():
        x, condition = torch.randn(1, 1, 128, frames), torch.randn(1, 64, frames)
        denoiser.output_projection.weight /= denoiser(x, torch.tensor([50]), condition).std()
    inputs = (torch.randn(1, frames, 32), torch.full((1, frames, 1), 220.0), torch.rand(1, frames, 1) / 10)
    source = 1.5 * torch.randn(1, frames, 128) - 5

    def mel() -> torch.Tensor:
        return model.infer(*inputs, torch.tensor([0]), source, method=method, generator=seeded())

    exact = model.decoder.normalise(mel())
    model.set_precision(torch.bfloat16)
    rounded = mel()
    assert rounded.dtype == torch.float32
    difference = (model.decoder.normalise(rounded) - exact).abs()
    assert 0 < difference.max() < 0.05


def test_a_loaded_model_computes_in_what_the_device_has(tmp_path: Path) -> None:
    from diffusion.unit2mel import build_unit2mel, load_unit2mel
    from modules.config import DiffusionConfig
    from modules.devices import fastest_dtype

    small = {"n_layers": 2, "n_chans": 16, "n_hidden": 8, "timesteps": 20}
    config = DiffusionConfig.model_validate({"model": small, "data": {"encoder_out_channels": 24}})
    torch.save({"model": build_unit2mel(config).state_dict()}, tmp_path / "model_5.pt")
    for precision, dtype in (("auto", fastest_dtype(torch.device("cpu"), wide_range=True)), ("fp32", torch.float32)):
        model = load_unit2mel(tmp_path / "model_5.pt", config, "cpu", precision)
        assert model.decoder.denoise_fn.input_projection.weight.dtype == dtype
        assert model.unit_embed.weight.dtype == model.decoder.spec_min.dtype == torch.float32
