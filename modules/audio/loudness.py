"""Levels: normalisation that cannot clip, int16 that cannot wrap, and the loudness envelope of a source."""

from __future__ import annotations

import numpy as np

from modules.audio.slicer import RmsCurve

SILENCE_PEAK = 10 ** (-60 / 20)  # audio that never exceeds -60 dBFS holds nothing to normalise
_BLOCK = 1 << 22  # samples worked on at a time, so that long audio needs no second copy in float64


def peak(audio: np.ndarray) -> float:
    """Largest absolute sample of audio [T]; 0 for empty audio. No temporary array."""
    return max(float(audio.max()), -float(audio.min())) if audio.size else 0.0


def is_silent(audio: np.ndarray, threshold: float = SILENCE_PEAK) -> bool:
    """Whether audio [T] never exceeds ``threshold`` (of full scale)."""
    return peak(audio) <= threshold


def normalize_peak(audio: np.ndarray, target: float = 1.0) -> np.ndarray:
    """Audio [T] scaled so that its largest absolute sample is ``target``; silence stays as it is."""
    top = peak(audio)
    return audio if top == 0 else audio / np.float32(top / target)


def normalize_loudness(
    audio: np.ndarray, sample_rate: int, target_lufs: float, ceiling: float = 10 ** (-1 / 20)
) -> np.ndarray:
    """Audio [T] brought to a loudness (ITU-R BS.1770), with its peaks held under ``ceiling``.

    Audio that the gate of BS.1770 finds silent (below -70 LUFS) keeps its level.
    """
    measured = loudness(audio, sample_rate)
    gain = 10 ** ((target_lufs - measured) / 20) if np.isfinite(measured) else 1.0
    return limit(audio * np.float32(gain), sample_rate, ceiling)


def loudness(audio: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness of audio [T] in LUFS; -inf for silence.

    BS.1770 measures blocks of 400 ms; shorter audio is repeated up to that length.
    """
    import warnings

    import pyloudnorm

    meter = pyloudnorm.Meter(sample_rate)
    shortest = int(meter.block_size * sample_rate) + 1
    if audio.size == 0:
        return float("-inf")
    if len(audio) < shortest:
        audio = np.resize(audio, shortest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # log10(0) of digital silence is the -inf we return
        return float(meter.integrated_loudness(np.asarray(audio, dtype=np.float64)))


def limit(audio: np.ndarray, sample_rate: int, ceiling: float = 1.0, lookahead_ms: float = 5.0) -> np.ndarray:
    r"""Audio [T] with no sample above ``ceiling``, by a gain that turns down smoothly before a peak.

    The gain a sample needs is min(1, ceiling / |x|). Taking the minimum over a window around each sample and then
    the mean over a window no wider never exceeds what any sample needs, so the result cannot clip::

        needed     ----v--------      one peak
        minimum    -\_______/---      held for the window before and after it
        mean       --\_____/----      the edges sloped; still low enough at the peak
    """
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    if peak(audio) <= ceiling:
        return audio
    half = max(1, int(sample_rate * lookahead_ms / 1000))
    needed = ceiling / np.maximum(np.abs(audio), ceiling)
    held = minimum_filter1d(needed, 2 * half + 1, mode="nearest")
    gain = uniform_filter1d(held, 2 * half + 1, mode="nearest")
    return np.clip(audio * gain, -ceiling, ceiling).astype(audio.dtype)  # the clip mends only float rounding


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Float audio [T] as int16: truncated toward zero as the original does, clipped and never wrapped."""
    return (np.clip(audio, -1.0, 1.0) * np.float32(32767)).astype(np.int16)


def adjust_envelope(
    source: np.ndarray, source_rate: int, output: np.ndarray, output_rate: int, rate: float
) -> np.ndarray:
    """Give ``output`` some of the loudness envelope of ``source``.

    Both envelopes are RMS over one second every half second, stretched to the output's length; the output is
    multiplied by rms_source**(1 - rate) * rms_output**(rate - 1).

    Args:
        source: [S] at ``source_rate`` Hz.
        output: [T] at ``output_rate`` Hz; it is not changed.
        rate: 1 leaves the output as it is, 0 gives it the envelope of the source.

    Returns:
        float32 [T].
    """
    gains = EnvelopeGain(envelope(source, source_rate), envelope(output, output_rate), len(output), rate)
    adjusted = np.empty(len(output), np.float32)
    for start in range(0, len(output), _BLOCK):
        stop = min(start + _BLOCK, len(output))
        adjusted[start:stop] = output[start:stop] * gains(start, stop)
    return adjusted


def envelope(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """RMS of audio [T] over windows of one second every half second, the ends padded with silence.

    Returns:
        float32 [1 + T // hop], hop being half a second.
    """
    curve = envelope_curve(sample_rate)
    for start in range(0, len(audio), _BLOCK):
        curve.push(audio[start : start + _BLOCK])
    return curve.finish()


def envelope_curve(sample_rate: int) -> RmsCurve:
    """What ``envelope`` measures, to be fed block by block."""
    hop = sample_rate // 2
    return RmsCurve(2 * hop, hop, without_offset=True)


class EnvelopeGain:
    """The gain of adjust_envelope for any part of the output, so that long audio can be adjusted block by block.

    Args:
        source_envelope, output_envelope: what ``envelope`` gives, [F] and [G].
        length: samples of the whole output.
        rate: 1 no change, 0 the envelope of the source.
    """

    def __init__(
        self, source_envelope: np.ndarray, output_envelope: np.ndarray, length: int, rate: float
    ) -> None:
        self.source = source_envelope
        self.output = output_envelope
        self.length = length
        self.rate = rate

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Gain of output samples ``start`` to ``stop``, float32 [stop - start]."""
        middles = (np.arange(start, stop) + 0.5) / self.length
        source = _stretched(self.source, middles)
        output = np.maximum(_stretched(self.output, middles), 1e-6)
        return (source ** (1 - self.rate) * output ** (self.rate - 1)).astype(np.float32)


def _stretched(curve: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Linear interpolation of ``curve`` at sample centres given as fractions of the whole length."""
    return np.interp(middles * len(curve) - 0.5, np.arange(len(curve)), curve)
