"""Building blocks of the networks: attention, weight norm, pitch, segments, losses, random draws."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modules.nn.attention import (
    CausalTransformer,
    RelativeAttention,
    RelativeEncoder,
    TransformerSizes,
    banded_attention,
)
from modules.nn.flows import CouplingFlow
from modules.nn.losses import discriminator_loss, feature_loss, generator_loss, kl_loss
from modules.nn.noise import Noise, RowNoise
from modules.nn.pitch import f0_to_coarse, f0_to_log, log_to_f0, normalize_f0
from modules.nn.segments import random_starts, sequence_mask, slice_segments
from modules.nn.wavenet import WaveNet
from modules.nn.weight_norm import (
    WeightNormConv1d,
    WeightNormConv2d,
    WeightNormConvTranspose1d,
    fold_weight_norm,
)
from tests.parity import golden
from tests.synthesiser import GOLDENS, golden_inputs

CPU = torch.device("cpu")


# --- attention -----------------------------------------------------------------------------------------------


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_k: Tensor, rel_v: Tensor, padding: Tensor | None = None
) -> Tensor:
    """The definition: a whole T x T matrix of relative positions, one embedding looked up for each pair."""
    t, d = q.shape[2:]
    window = rel_k.shape[0] // 2
    distance = torch.arange(t)[None] - torch.arange(t)[:, None]  # key minus query
    near = distance.abs() <= window
    row = (distance + window).clamp(0, 2 * window)
    keys = rel_k[row] * near[..., None]
    values = rel_v[row] * near[..., None]
    scores = (q @ k.transpose(2, 3) + torch.einsum("bhid,ijd->bhij", q, keys)) / d**0.5
    if padding is not None:
        scores = scores.masked_fill(padding, -1e4)
    weights = scores.softmax(-1)
    return weights @ v + torch.einsum("bhij,ijd->bhid", weights, values)


def attention_inputs(t: int, b: int = 2, h: int = 2, d: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(t)
    shapes = [(b, h, t, d)] * 3 + [(9, d)] * 2
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("t", [1, 3, 9, 50])
@pytest.mark.parametrize("rows_a_block", [1, 7, 50])
def test_banded_attention_is_exact_in_value_and_gradient(t: int, rows_a_block: int) -> None:
    inputs = attention_inputs(t)
    padding = torch.zeros(2, 1, 1, t, dtype=torch.bool)
    padding[1, ..., t // 2 + 1 :] = True
    banded = banded_attention(*inputs, padding=padding, max_scores=rows_a_block * 2 * 2 * t)
    dense = dense_attention(*inputs, padding=padding)
    torch.testing.assert_close(banded, dense, atol=1e-12, rtol=1e-10)
    weight = torch.randn(dense.shape, generator=torch.Generator().manual_seed(0), dtype=dense.dtype)
    gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (banded, dense)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-9)


def test_attention_of_long_input_holds_no_square_matrix() -> None:
    """(C2) Memory for the scores is bounded, whatever the length."""
    t = 6000
    inputs = [x.detach().float() for x in attention_inputs(t, b=1, d=4)]
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out._base is None:
                largest = max(largest, out.numel())
            return out

    with torch.inference_mode(), Watch():
        banded_attention(*inputs)
    assert 1 << 20 < largest <= 1 << 22 < t * t


def test_dropped_weights_change_training_but_not_evaluation() -> None:
    attention = RelativeAttention(16, 2, p_dropout=0.5)
    x = torch.randn(1, 16, 12, generator=torch.Generator().manual_seed(0))
    attention.eval()
    assert torch.equal(attention(x, None), attention(x, None))
    attention.train()
    torch.manual_seed(0)
    assert not torch.allclose(attention(x, None), attention(x, None))


@pytest.mark.parametrize("length", [1, 5, 12])
def test_padding_changes_nothing_of_what_comes_before_it(length: int) -> None:
    encoder = RelativeEncoder(TransformerSizes(16, 32, 2, 2, 3, 0.0)).eval()
    x = torch.randn(1, 16, 12, generator=torch.Generator().manual_seed(1))
    mask = sequence_mask(torch.tensor([length]), 12)[:, None].float()
    padded = encoder(x, mask)
    alone = encoder(x[..., :length], None)
    torch.testing.assert_close(padded[..., :length], alone, atol=1e-5, rtol=1e-5)
    assert not padded[..., length:].any()


def test_causal_transformer_does_not_look_ahead() -> None:
    network = CausalTransformer(TransformerSizes(16, 32, 2, 2, 3, 0.0)).eval()
    x = torch.randn(1, 16, 20, generator=torch.Generator().manual_seed(1))
    later = x.clone()
    later[..., 11:] += 1
    first, second = network(x, None), network(later, None)
    assert torch.equal(first[..., :11], second[..., :11])
    assert not torch.allclose(first[..., 11:], second[..., 11:])


# --- weight norm ---------------------------------------------------------------------------------------------

CONVOLUTIONS = [
    (WeightNormConv1d, nn.Conv1d, (6, 4, 3), {"padding": 1, "groups": 2}, (2, 6, 9)),
    (WeightNormConv2d, nn.Conv2d, (3, 4, (5, 1)), {"stride": (3, 1), "padding": (2, 0)}, (2, 3, 10, 2)),
    (WeightNormConvTranspose1d, nn.ConvTranspose1d, (6, 4, 4), {"stride": 2, "padding": 1}, (2, 6, 9)),
]


@pytest.mark.parametrize(("ours", "plain", "sizes", "options", "shape"), CONVOLUTIONS)
def test_weight_norm_is_torchs_under_the_old_names(ours, plain, sizes, options, shape) -> None:  # type: ignore[no-untyped-def]
    conv = ours(*sizes, **options)
    reference = torch.nn.utils.parametrizations.weight_norm(plain(*sizes, **options))
    assert list(conv.state_dict()) == ["bias", "weight_g", "weight_v"]
    with torch.no_grad():
        conv.weight_g.mul_(1.7)
    original = reference.parametrizations.weight
    reference.load_state_dict({"bias": conv.bias, "parametrizations.weight.original0": conv.weight_g,
                               "parametrizations.weight.original1": conv.weight_v})  # fmt: skip
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conv(x), reference(x))
    conv(x).square().sum().backward()
    reference(x).square().sum().backward()
    torch.testing.assert_close(conv.weight_g.grad, original.original0.grad)
    torch.testing.assert_close(conv.weight_v.grad, original.original1.grad)


@pytest.mark.parametrize(("ours", "plain", "sizes", "options", "shape"), CONVOLUTIONS)
def test_folding_keeps_the_output_and_drops_the_norm(ours, plain, sizes, options, shape) -> None:  # type: ignore[no-untyped-def]
    conv = ours(*sizes, **options)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = conv(x)
    other = copy.deepcopy(conv)
    fold_weight_norm(conv)
    fold_weight_norm(conv)  # once more does no harm
    assert sorted(conv.state_dict()) == ["bias", "weight"]
    assert torch.equal(conv(x), before)
    assert torch.equal(other(x), before), "a copy is not folded with it"


# --- flows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [False, True])
def test_flow_backwards_undoes_flow_forwards(share: bool) -> None:
    torch.manual_seed(0)
    flow = CouplingFlow(8, 16, 4, lambda: WaveNet(16, 5, 2, 6), share)
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, g = torch.randn(2, 8, 11), torch.randn(2, 6, 1)
    mask = sequence_mask(torch.tensor([11, 7]))[:, None].float()
    there = flow(x * mask, mask, g)
    assert (there - x * mask).abs().max() > 0.1
    torch.testing.assert_close(flow(there, mask, g, reverse=True), x * mask, atol=1e-4, rtol=1e-4)
    assert len({id(p) for p in flow.parameters()}) == len(list(flow.parameters()))


# --- pitch ---------------------------------------------------------------------------------------------------


def test_coarse_pitch_equals_the_golden_up_to_1100_hz() -> None:
    _, arrays, x = golden_inputs(GOLDENS / "a_f0_to_coarse.npz")
    want, got = arrays["out_coarse"], f0_to_coarse(x["f0"]).numpy()
    in_range = x["f0"].numpy() <= 1101
    assert in_range.sum() > 300
    np.testing.assert_array_equal(got[in_range], want[in_range])


def test_notes_above_1100_hz_take_the_highest_bin() -> None:
    """(A1) The original gives them bin 0, which no training ever touched."""
    f0 = torch.tensor([1100.0, 1101.5, 1103.0, 1500.0, 4000.0, 20000.0])
    assert f0_to_coarse(f0).tolist() == [255] * 6
    assert f0_to_coarse(torch.tensor([0.0, 1.0, 49.0, 50.0])).tolist() == [1] * 4
    assert f0_to_coarse(torch.tensor([-30.0])).tolist() == [1]  # a predicted f0 may be negative


def test_log_f0_and_back() -> None:
    f0 = torch.tensor([[0.0, 55.0, 440.0, 1500.0]])
    torch.testing.assert_close(log_to_f0(f0_to_log(f0)), f0, atol=1e-3, rtol=1e-5)


def test_normalised_f0_equals_the_golden() -> None:
    meta, arrays, x = golden_inputs(GOLDENS / "a_normalize_f0.npz")
    golden.compare(meta, arrays, "fixed", normalize_f0(x["lf0"], x["x_mask"], x["uv"]).numpy())
    scale = torch.empty(2, 1).uniform_(0.8, 1.2, generator=torch.Generator().manual_seed(7))
    golden.compare(meta, arrays, "random_seed7", normalize_f0(x["lf0"], x["x_mask"], x["uv"], scale).numpy())


def test_normalised_f0_of_a_clip_without_voice_or_with_nan_does_not_end_the_process() -> None:
    """(B16) The original exits with success on a NaN; here it stays visible to whoever watches the loss."""
    lf0 = torch.ones(2, 1, 5)
    lf0[1, 0, 2] = float("nan")
    out = normalize_f0(lf0, None, torch.tensor([[0.0] * 5, [1.0] * 5]))
    assert torch.equal(out[0], lf0[0])
    assert out[1].isnan().all()


# --- segments ------------------------------------------------------------------------------------------------


def test_masks_and_segments_equal_the_golden() -> None:
    meta, arrays, x = golden_inputs(GOLDENS / "a_commons.npz")
    golden.compare(meta, arrays, "sequence_mask", sequence_mask(x["lengths"], 25).numpy())
    golden.compare(meta, arrays, "sequence_mask_auto", sequence_mask(x["lengths"]).numpy())
    golden.compare(meta, arrays, "slice", slice_segments(x["x"], x["ids"], 6).numpy())
    starts = random_starts(x["lengths"], 6, torch.Generator().manual_seed(11))
    golden.compare(meta, arrays, "rand_ids", starts.numpy())
    golden.compare(meta, arrays, "rand_slice", slice_segments(x["x"], starts, 6).numpy())
    golden.compare(meta, arrays, "rand_pitch", slice_segments(x["pitch"], starts, 6).numpy())
    starts = random_starts(x["lengths"], 6, torch.Generator().manual_seed(12))
    golden.compare(meta, arrays, "rs_ids", starts.numpy())
    golden.compare(meta, arrays, "rs_slice", slice_segments(x["x"], starts, 6).numpy())


def test_a_clip_shorter_than_the_segment_is_followed_by_zeros() -> None:
    x = torch.arange(1.0, 9.0).view(2, 1, 4)
    starts = random_starts(torch.tensor([4, 3]), 6, torch.Generator().manual_seed(0))
    assert starts.tolist() == [0, 0]
    assert slice_segments(x, starts, 6).tolist() == [[[1, 2, 3, 4, 0, 0]], [[5, 6, 7, 8, 0, 0]]]


# --- losses --------------------------------------------------------------------------------------------------


def test_losses_equal_the_golden() -> None:
    meta, arrays, x = golden_inputs(GOLDENS / "a_losses.npz")
    real, generated = ([[x[f"f{side}{i}{j}"] for j in range(3)] for i in range(2)] for side in "rg")
    golden.compare(meta, arrays, "feature", feature_loss(real, generated).numpy())
    real_parts = [discriminator_loss([x[name]], []) for name in ("dr0", "dr1")]
    generated_parts = [discriminator_loss([], [x[name]]) for name in ("dg0", "dg1")]
    golden.compare(meta, arrays, "disc", discriminator_loss([x["dr0"], x["dr1"]], [x["dg0"], x["dg1"]]).numpy())
    golden.compare(meta, arrays, "disc_r", torch.stack(real_parts).numpy())
    golden.compare(meta, arrays, "disc_g", torch.stack(generated_parts).numpy())
    parts = [generator_loss([x[name]]) for name in ("dg0", "dg1")]
    golden.compare(meta, arrays, "gen", generator_loss([x["dg0"], x["dg1"]]).numpy())
    golden.compare(meta, arrays, "gen_parts", torch.stack(parts).numpy())
    kl = kl_loss(x["z_p"], x["logs_q"], x["m_p"], x["logs_p"], x["z_mask"])
    golden.compare(meta, arrays, "kl", kl.numpy())


def test_losses_of_half_precision_scores_are_fp32() -> None:
    scores = [torch.full((2, 3), 300.0, dtype=torch.float16)]  # its square is beyond float16
    for loss in (discriminator_loss(scores, scores), generator_loss(scores), feature_loss([scores], [scores])):
        assert loss.dtype == torch.float32
        assert loss.isfinite()


def test_feature_loss_sends_no_gradient_to_the_real_side() -> None:
    real, generated = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    feature_loss([[real]], [[generated]]).backward()
    assert real.grad is None
    assert generated.grad is not None


# --- random draws --------------------------------------------------------------------------------------------


def test_rows_draw_what_they_would_draw_alone() -> None:
    batch = RowNoise(CPU, seed=5, lengths=[30, 20, 30])
    start, noise, latent = batch.uniform((3, 9)), batch.normal((3, 60, 9), time=1), batch.normal((3, 4, 30), time=2)
    for row, length in enumerate([30, 20, 30]):
        alone = RowNoise(CPU, seed=5, lengths=[length])
        assert torch.equal(start[row], alone.uniform((1, 9))[0])
        assert torch.equal(noise[row, : 2 * length], alone.normal((1, 2 * length, 9), time=1)[0])
        assert torch.equal(latent[row, :, :length], alone.normal((1, 4, length), time=2)[0])
        assert not noise[row, 2 * length :].any()


def test_draws_for_a_batch_come_from_the_generator_given() -> None:
    first, second = (Noise(CPU, torch.Generator().manual_seed(3)) for _ in range(2))
    state = torch.random.get_rng_state()
    assert torch.equal(first.normal((2, 5)), second.normal((2, 5)))
    assert torch.equal(first.uniform((2, 5)), second.uniform((2, 5)))
    assert torch.equal(state, torch.random.get_rng_state())
    first.generator = None
    first.normal((2, 5))
    assert not torch.equal(state, torch.random.get_rng_state())
