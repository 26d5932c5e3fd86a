"""The synthesiser (a VITS generator conditioned on speech units and f0) and its discriminators.

Kim et al., "Conditional Variational Autoencoder with Adversarial Learning for End-to-End Text-to-Speech", 2021.
State-dict keys are those of so-vits-svc 4.1 models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.config import Config, ModelSection
from modules.devices import DTYPES, fastest_dtype
from modules.errors import UserError
from modules.nn.attention import CausalTransformer, RelativeEncoder, TransformerSizes
from modules.nn.convolutions import masked
from modules.nn.flows import CouplingFlow
from modules.nn.noise import Noise, RowNoise
from modules.nn.pitch import F0_BINS, f0_to_coarse, f0_to_log, log_to_f0, normalize_f0
from modules.nn.segments import random_starts, sequence_mask, slice_segments
from modules.nn.size import check_size
from modules.nn.wavenet import WaveNet, sample, statistics
from modules.nn.weight_norm import WeightNormConv1d, WeightNormConv2d, fold_weight_norm
from vdecoder import DecoderSizes, get_vocoder

F0_SCALE_RANGE = (0.8, 1.2)  # by which the deviation of log f0 is scaled at random in training


class SynthesizerOutput(NamedTuple):
    """What a training step needs from the generator. S: samples of the segment, T: frames."""

    audio: Tensor  # [B, 1, S]
    ids_slice: Tensor  # first frame of each segment, int64 [B]
    spec_mask: Tensor  # [B, 1, T]
    z: Tensor  # sample of the posterior, [B, inter, T]
    z_p: Tensor  # z brought to the prior by the flow
    m_p: Tensor  # prior: mean
    logs_p: Tensor  # prior: log standard deviation
    m_q: Tensor  # posterior: mean
    logs_q: Tensor  # posterior: log standard deviation
    pred_lf0: Tensor  # [B, 1, T]; these three are zeros without automatic f0 prediction
    norm_lf0: Tensor
    lf0: Tensor


class SynthesizerTrn(nn.Module):
    """Speech units, f0 and a speaker to audio: VITS (figure 1 of the paper) with frames of units in place of text.

    Since the units come frame by frame, there are no durations to align. In training, the posterior encoder reads the
    spectrogram into latents z, from which the decoder makes audio, and the flow brings z to z_p, which the prior
    encoder has to foresee from units and f0. At inference z_p is drawn from the prior and the flow runs backwards.

    Args:
        spec_channels: bins of the linear spectrogram.
        segment_frames: frames of the segment that the decoder is trained on.
        with_posterior: build the posterior encoder, which only training needs.
        sampling_rate: Hz.
        unused: what the ``model`` section of a config says to others, such as ``speech_encoder``.
        The others are the fields of that section. ``build`` takes a whole config.

    Raises:
        TypeError: ``unused`` has a name that is no field of the section: a misspelt one.
    """

    def __init__(
        self,
        spec_channels: int,
        segment_frames: int,
        *,
        inter_channels: int,
        hidden_channels: int,
        filter_channels: int,
        n_heads: int,
        n_layers: int,
        kernel_size: int,
        p_dropout: float,
        resblock: str,
        resblock_kernel_sizes: Sequence[int],
        resblock_dilation_sizes: Sequence[Sequence[int]],
        upsample_rates: Sequence[int],
        upsample_initial_channel: int,
        upsample_kernel_sizes: Sequence[int],
        gin_channels: int,
        ssl_dim: int,
        n_speakers: int,
        vol_embedding: bool = False,
        vocoder_name: str = "nsf-hifigan",
        use_depthwise_conv: bool = False,
        use_automatic_f0_prediction: bool = True,
        flow_share_parameter: bool = False,
        n_flow_layer: int = 4,
        n_layers_trans_flow: int = 3,
        use_transformer_flow: bool = False,
        with_posterior: bool = True,
        sampling_rate: int = 44100,
        **unused: Any,
    ) -> None:
        super().__init__()
        unknown = unused.keys() - ModelSection.model_fields.keys()
        if unknown:
            raise TypeError(f"the synthesiser has no sizes called {', '.join(sorted(unknown))}")
        self.segment_frames, self.n_speakers, self.ssl_dim = segment_frames, n_speakers, ssl_dim
        self.emb_g = nn.Embedding(n_speakers, gin_channels)
        self.emb_vol = nn.Linear(1, hidden_channels) if vol_embedding else None
        self.pre = nn.Conv1d(ssl_dim, hidden_channels, 5, padding=2)
        sizes = TransformerSizes(hidden_channels, filter_channels, n_heads, n_layers, kernel_size, p_dropout)
        self.enc_p = PriorEncoder(inter_channels, sizes)
        decoder_sizes = DecoderSizes(
            inter_channels,
            resblock,
            resblock_kernel_sizes,
            resblock_dilation_sizes,
            upsample_rates,
            upsample_initial_channel,
            upsample_kernel_sizes,
            gin_channels,
            sampling_rate,
        )
        self.dec = get_vocoder(vocoder_name)(decoder_sizes)
        self.enc_q = (
            PosteriorEncoder(spec_channels, inter_channels, hidden_channels, gin_channels, use_depthwise_conv)
            if with_posterior
            else None
        )
        # n_flow_layer counts two things, as in so-vits-svc 4.1: couplings of a transformer flow, else the WaveNet's
        # layers within each of four couplings.
        network: Callable[[], nn.Module]
        if use_transformer_flow:
            n_couplings = n_flow_layer
            flow_sizes = sizes._replace(n_layers=n_layers_trans_flow, kernel_size=5)
            network = partial(CausalTransformer, flow_sizes, gin_channels)
        else:
            n_couplings = 4
            network = partial(WaveNet, hidden_channels, 5, n_flow_layer, gin_channels, depthwise=use_depthwise_conv)
        self.flow = CouplingFlow(inter_channels, hidden_channels, n_couplings, network, flow_share_parameter)
        self.f0_decoder = F0Decoder(sizes, gin_channels) if use_automatic_f0_prediction else None
        self.emb_uv = nn.Embedding(2, hidden_channels)

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return self.dec.hop_length

    def forward(
        self,
        c: Tensor,
        f0: Tensor,
        uv: Tensor,
        spec: Tensor,
        g: Tensor,
        c_lengths: Tensor,
        spec_lengths: Tensor,
        volume: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> SynthesizerOutput:
        """One training step of the generator, up to the audio of a random segment of each clip.

        Args:
            c: units [B, ssl_dim, T], stretched to the spectrogram's frames.
            f0: [B, T] in Hz.
            uv: [B, T], 1 where voiced.
            spec: linear magnitude [B, spec_channels, T].
            g: speaker ids, int64 [B] or [B, 1].
            c_lengths, spec_lengths: frames of each clip, int64 [B].
            volume: RMS [B, T], for models with volume embedding.
            generator: where random numbers come from; None is torch's global one.
        """
        assert self.enc_q is not None, "built without the posterior encoder: fit for inference only"
        noise = Noise(c.device, generator)
        speaker = self.speaker_condition(g)
        mask = sequence_mask(c_lengths, c.shape[2])[:, None].to(f0.dtype)
        x = self.embed(c, uv, volume, mask)
        # The contour is squeezed or widened at random: the f0 decoder learns to set the range by the speaker.
        if self.f0_decoder is not None:
            low, high = F0_SCALE_RANGE
            scale = noise.uniform((len(f0), 1)) * (high - low) + low
            lf0 = f0_to_log(f0)[:, None]
            norm_lf0 = normalize_f0(lf0, mask, uv, scale)
            pred_lf0 = self.f0_decoder(x, norm_lf0, mask, speaker)
        else:
            lf0 = norm_lf0 = pred_lf0 = torch.zeros_like(f0)[:, None]
        m_p, logs_p = self.enc_p(x, f0, mask)
        noise.normal(tuple(m_p.shape))  # the prior's sample, not used; the draws after it stay those of 4.1
        spec_mask = sequence_mask(spec_lengths, spec.shape[2])[:, None].to(f0.dtype)
        m_q, logs_q = self.enc_q(spec, spec_mask, speaker)
        z = sample(m_q, logs_q, noise.normal(tuple(m_q.shape))) * spec_mask
        z_p = self.flow(z, spec_mask, speaker)
        # The decoder takes most of the memory, so it is trained on short segments, as in VITS.
        starts = random_starts(spec_lengths, self.segment_frames, generator)
        audio = self.dec(
            slice_segments(z, starts, self.segment_frames),
            slice_segments(f0, starts, self.segment_frames),
            speaker,
            noise,
        )
        return SynthesizerOutput(audio, starts, spec_mask, z, z_p, m_p, logs_p, m_q, logs_q, pred_lf0, norm_lf0, lf0)

    @torch.inference_mode()
    def infer(
        self,
        c: Tensor,
        f0: Tensor,
        uv: Tensor,
        g: Tensor,
        volume: Tensor | None = None,
        noise_scale: float = 0.35,
        predict_f0: bool = False,
        seed: int = 52468,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Audio for given units, f0 and speaker. Torch's global random numbers are neither used nor changed.

        Args:
            c: units [B, ssl_dim, T], stretched to f0's frames.
            f0: [B, T] in Hz, 0 where the excitation shall be noise.
            uv: [B, T], 1 where voiced.
            g: speaker ids, int64 [B] or [B, 1]; or mixing weights of the speakers for each frame, float [T, S]
                or [B, T, S].
            volume: RMS [B, T], for models with volume embedding.
            noise_scale: of the prior's standard deviation.
            predict_f0: replace f0 by what the model itself predicts; ignored where it cannot.
            seed: every row draws from a generator of its own with this seed, so that it sounds as it would alone.
            lengths: frames of each row, int64 [B], where rows are padded at their ends; None: all have T. The last
                few frames before the padding see it through the decoder's convolutions.

        Returns:
            Audio [B, 1, T * hop_length], and the f0 that was used, [B, T].
        """
        b, _, t = c.shape
        noise = RowNoise(c.device, seed, [t] * b if lengths is None else lengths.tolist())
        mask = None if lengths is None else sequence_mask(lengths, t)[:, None].to(c.dtype)
        speaker = self.speaker_condition(g)
        x = self.embed(masked(c, mask), uv, volume, mask)
        if predict_f0 and self.f0_decoder is not None:
            norm_lf0 = normalize_f0(f0_to_log(f0)[:, None], mask, uv)
            f0 = log_to_f0(self.f0_decoder(x, norm_lf0, mask, speaker))[:, 0]
        m_p, logs_p = self.enc_p(x, f0, mask)
        z_p = masked(sample(m_p, logs_p, noise.normal(tuple(m_p.shape), time=2), noise_scale), mask)
        z = self.flow(z_p, mask, speaker, reverse=True)
        return self.dec(masked(z, mask), f0, speaker, noise), f0

    def speaker_condition(self, g: Tensor) -> Tensor:
        """Speaker ids to [B, gin, 1], or mixing weights [T, S] or [B, T, S] to [B, gin, T]."""
        if not g.is_floating_point():
            return self.emb_g(g.reshape(-1, 1)).transpose(1, 2)
        weights = g if g.dim() == 3 else g[None]
        return torch.matmul(weights, self.emb_g.weight[: weights.shape[2]]).transpose(1, 2)

    def embed(self, c: Tensor, uv: Tensor, volume: Tensor | None, mask: Tensor | None) -> Tensor:
        """Units, voicing and volume to the hidden channels, [B, hidden, T]."""
        x = masked(self.pre(c), mask) + self.emb_uv(uv.long()).transpose(1, 2)
        if self.emb_vol is not None:
            if volume is None:
                raise ValueError("this model has volume embedding and needs the volume of each frame")
            x = x + self.emb_vol(volume[:, :, None]).transpose(1, 2)
        return x

    def fold_weight_norm(self) -> None:
        """Compute the normalised weights once and for all; training is no longer possible."""
        fold_weight_norm(self)


class PriorEncoder(nn.Module):
    """What the units and the pitch say about the latents: mean and log standard deviation of each frame.

    The text encoder of VITS, with its relative positions within four frames; the pitch comes as mel-spaced bins.
    """

    def __init__(self, inter_channels: int, sizes: TransformerSizes) -> None:
        super().__init__()
        self.proj = nn.Conv1d(sizes.hidden_channels, 2 * inter_channels, 1)
        self.f0_emb = nn.Embedding(F0_BINS, sizes.hidden_channels)
        self.enc_ = RelativeEncoder(sizes)

    def forward(self, x: Tensor, f0: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, hidden, T] and f0 [B, T] in Hz -> mean and log standard deviation, each [B, inter, T]."""
        x = self.enc_(x + self.f0_emb(f0_to_coarse(f0)).transpose(1, 2), mask)
        return statistics(masked(self.proj(x), mask))


class PosteriorEncoder(nn.Module):
    """What the spectrogram says about the latents: the non-causal WaveNet of VITS; only training needs it."""

    def __init__(
        self, spec_channels: int, inter_channels: int, hidden_channels: int, gin_channels: int, depthwise: bool
    ) -> None:
        super().__init__()
        self.pre = nn.Conv1d(spec_channels, hidden_channels, 1)
        self.enc = WaveNet(hidden_channels, 5, 16, gin_channels, depthwise=depthwise)
        self.proj = nn.Conv1d(hidden_channels, 2 * inter_channels, 1)

    def forward(self, spec: Tensor, mask: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """spec [B, bins, T], mask [B, 1, T], g [B, gin, 1] -> mean and log standard deviation, each [B, inter, T]."""
        x = self.enc(masked(self.pre(spec), mask), mask, g)
        return statistics(masked(self.proj(x), mask))


class F0Decoder(nn.Module):
    """Predicts the pitch from units, voicing and speaker; the melody's normalised contour guides it."""

    def __init__(self, sizes: TransformerSizes, gin_channels: int) -> None:
        super().__init__()
        channels = sizes.hidden_channels
        self.prenet = nn.Conv1d(channels, channels, 3, padding=1)
        self.decoder = CausalTransformer(sizes)
        self.proj = nn.Conv1d(channels, 1, 1)
        self.f0_prenet = nn.Conv1d(1, channels, 3, padding=1)
        self.cond = nn.Conv1d(gin_channels, channels, 1)

    def forward(self, x: Tensor, norm_lf0: Tensor, mask: Tensor | None, g: Tensor) -> Tensor:
        """x [B, hidden, T], norm_lf0 [B, 1, T], g [B, gin, 1 or T] -> log f0 [B, 1, T] in fp32.

        No gradient goes back to x and g: predicting the pitch must not bend what the audio is made from.
        """
        x = x.detach() + self.cond(g.detach()) + self.f0_prenet(norm_lf0)
        x = masked(self.prenet(x), mask)
        return masked(self.proj(self.decoder(x, mask)), mask).float()


class DiscriminatorOutput(NamedTuple):
    """Of one batch of audio: a score map [B, N] and the feature maps of each of the six discriminators."""

    scores: list[Tensor]
    features: list[list[Tensor]]


class MultiPeriodDiscriminator(nn.Module):
    """One discriminator over the waveform and five over it folded at prime periods.

    Kong et al., "HiFi-GAN", 2020, section 2.3; of its three scales only the first is kept, as in VITS.

    Args:
        use_spectral_norm: spectral norm instead of weight norm.
        width: channels relative to the published model.
    """

    PERIODS = (2, 3, 5, 7, 11)

    def __init__(self, use_spectral_norm: bool = False, width: float = 1.0) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            [
                ScaleDiscriminator(use_spectral_norm, width),
                *(PeriodDiscriminator(period, use_spectral_norm, width) for period in self.PERIODS),
            ]
        )

    def forward(self, *audio: Tensor) -> tuple[DiscriminatorOutput, ...]:
        """Score one or more batches [B, 1, T] of equal length in one pass; one output for each.

        One pass over real and generated audio serves both sides' losses: each backward names its own parameters.
        """
        sizes = [len(batch) for batch in audio]
        together = torch.cat(audio) if len(audio) > 1 else audio[0]
        outputs = [DiscriminatorOutput([], []) for _ in audio]
        for discriminator in self.discriminators:
            score, features = discriminator(together)
            parts = [feature.split(sizes) for feature in features]
            for i, one_score in enumerate(score.split(sizes)):
                outputs[i].scores.append(one_score)
                outputs[i].features.append([part[i] for part in parts])
        return tuple(outputs)


class _Discriminator(nn.Module):
    """Convolutions with leaky ReLUs; every one's output is a feature map."""

    convs: nn.ModuleList
    conv_post: nn.Module

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Audio [B, 1, T] -> score map [B, N] and the feature maps."""
        x = self.fold(x)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        x = self.conv_post(x)
        features.append(x)
        return x.flatten(1), features

    def fold(self, x: Tensor) -> Tensor:
        """The shape that the convolutions read."""
        return x


class ScaleDiscriminator(_Discriminator):
    """Scores the waveform with strided, grouped convolutions (Kumar et al., "MelGAN", 2019)."""

    def __init__(self, use_spectral_norm: bool = False, width: float = 1.0) -> None:
        super().__init__()
        base = 4 * max(1, round(4 * width))  # four channels a group divide any multiple of four
        channels = [base * factor for factor in (1, 4, 16, 64, 64)]
        conv = partial(_normed_conv1d, use_spectral_norm)
        self.convs = nn.ModuleList([conv(1, channels[0], 15, padding=7)])
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            self.convs.append(conv(inputs, outputs, 41, stride=4, padding=20, groups=inputs // 4))
        self.convs.append(conv(channels[-1], channels[-1], 5, padding=2))
        self.conv_post = conv(channels[-1], 1, 3, padding=1)


class PeriodDiscriminator(_Discriminator):
    """Scores every ``period``-th sample: the waveform folded to [T / period, period]."""

    def __init__(self, period: int, use_spectral_norm: bool = False, width: float = 1.0) -> None:
        super().__init__()
        self.period = period
        base = max(1, round(32 * width))
        channels = [1, *(base * factor for factor in (1, 4, 16, 32, 32))]
        conv = partial(_normed_conv2d, use_spectral_norm)
        self.convs = nn.ModuleList(
            conv(inputs, outputs, (5, 1), stride=(3 if i < 4 else 1, 1), padding=(2, 0))
            for i, (inputs, outputs) in enumerate(zip(channels, channels[1:], strict=False))
        )
        self.conv_post = conv(channels[-1], 1, (3, 1), padding=(1, 0))

    def fold(self, x: Tensor) -> Tensor:
        """[B, 1, T] -> [B, 1, ceil(T / period), period], mirrored at its end where a row would not be full."""
        b, c, t = x.shape
        missing = -t % self.period
        if missing:
            x = F.pad(x, (0, missing), mode="reflect")
        return x.view(b, c, -1, self.period)


def _normed_conv1d(use_spectral_norm: bool, *args: Any, **kwargs: Any) -> nn.Module:
    if use_spectral_norm:
        return nn.utils.spectral_norm(nn.Conv1d(*args, **kwargs))
    return WeightNormConv1d(*args, **kwargs)


def _normed_conv2d(use_spectral_norm: bool, *args: Any, **kwargs: Any) -> nn.Module:
    if use_spectral_norm:
        return nn.utils.spectral_norm(nn.Conv2d(*args, **kwargs))
    return WeightNormConv2d(*args, **kwargs)


def build(config: Config, with_posterior: bool = True) -> SynthesizerTrn:
    """The synthesiser of a config.json, with random weights.

    Args:
        with_posterior: build the posterior encoder, which only training needs.

    Raises:
        UserError: it would have more parameters than any machine trains.
    """
    known = inspect.signature(SynthesizerTrn).parameters.keys() - {"sampling_rate"}  # another section tells it
    # A user's config may hold keys that we do not know; reading it has reported those that look misspelt.
    sizes = {name: value for name, value in config.model.model_dump().items() if name in known}
    make = partial(
        SynthesizerTrn,
        config.spec_channels,
        config.segment_frames,
        with_posterior=with_posterior,
        sampling_rate=config.data.sampling_rate,
        **sizes,
    )
    bins = config.data.filter_length / type(config.data).model_fields["filter_length"].default
    check_size(config.model, make, {"data.filter_length": bins})
    return make()


def prepare_for_inference(
    model: SynthesizerTrn, device: str | torch.device = "cpu", precision: str = "auto"
) -> SynthesizerTrn:
    """Make ``model`` ready to infer: norms folded, posterior dropped, on its device, in its precision.

    Only the decoder's convolutions leave fp32, whatever the checkpoint was stored in: they take nearly all of the
    time, and elsewhere pitch and excitation would suffer.

    Args:
        precision: "fp32", "bf16", "fp16", or "auto": the fastest of the device; in each the audio stays
            within 45 dB of fp32.

    Returns:
        The model itself.

    Raises:
        UserError: there is no such precision.
    """
    if precision != "auto" and precision not in DTYPES:
        raise UserError(f"there is no precision {precision!r}", "precision", f"auto, {', '.join(DTYPES)}")
    device = torch.device(device)
    model.enc_q = None
    model.float().eval().requires_grad_(False)
    model.fold_weight_norm()
    model.to(device)
    model.dec.set_precision(fastest_dtype(device) if precision == "auto" else DTYPES[precision])
    return model
