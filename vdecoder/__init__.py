"""Waveform decoders of the synthesiser, by their names in config.json."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from modules.errors import UserError

if TYPE_CHECKING:
    from vdecoder.nsf_hifigan import NSFHiFiGAN
    from vdecoder.nsf_istft import NSFISTFT

VOCODERS = {
    "nsf-hifigan": "vdecoder.nsf_hifigan:NSFHiFiGAN",
    "nsf-snake-hifigan": "vdecoder.nsf_snake_hifigan:NSFSnakeHiFiGAN",
    "nsf-istft": "vdecoder.nsf_istft:NSFISTFT",  # ours: small and fast, not known to so-vits-svc
}


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
