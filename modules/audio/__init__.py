"""Sound: files in and out, resampling, levels, slicing. Importing this package is cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.lazy import lazy_names

if TYPE_CHECKING:
    from modules.audio.io import audio_info, load_audio, save_audio, stream_audio
    from modules.audio.slicer import slice_audio

__all__ = ["audio_info", "load_audio", "save_audio", "slice_audio", "stream_audio"]

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("audio_info", "load_audio", "save_audio", "stream_audio"), "modules.audio.io"),
        "slice_audio": "modules.audio.slicer",
    },
)
