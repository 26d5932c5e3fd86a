"""Waveform decoders of the synthesiser, by their names in config.json."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from modules.errors import UserError

if TYPE_CHECKING:
    from vdecoder.nsf_hifigan import NSFHiFiGAN
    from vdecoder.nsf_istft import NSFISTFT

VOCODERS = {
    "nsf-hifigan": "vdecoder.nsf_hifigan:NSFHiFiGAN",
    "nsf-snake-hifigan": "vdecoder.nsf_snake_hifigan:NSFSnakeHiFiGAN",
    "nsf-istft": "vdecoder.nsf_istft:NSFISTFT",  # ours: small and fast, not known to so-vits-svc
}


class DecoderSizes(NamedTuple):
    """Sizes of a decoder; but for the last, the names are those of config.json's ``model`` section."""

    inter_channels: int  # of the latents
    resblock: str  # "1": two convolutions a residual step, "2": one
    resblock_kernel_sizes: Sequence[int]
    resblock_dilation_sizes: Sequence[Sequence[int]]  # one row a kernel size
    upsample_rates: Sequence[int]  # their product is the samples of a frame
    upsample_initial_channel: int
    upsample_kernel_sizes: Sequence[int]  # one a rate
    gin_channels: int | None  # of the speaker condition; None for a decoder without one
    sampling_rate: int  # Hz


def get_vocoder(name: str) -> type[NSFHiFiGAN] | type[NSFISTFT]:
    """The decoder class called ``name``.

    Raises:
        UserError: there is no such decoder.
    """
    if name not in VOCODERS:
        raise UserError(
            f"there is no vocoder {name!r}", "config.json: model.vocoder_name", f"one of {', '.join(VOCODERS)}"
        )
    module, _, attribute = VOCODERS[name].partition(":")
    return getattr(import_module(module), attribute)
