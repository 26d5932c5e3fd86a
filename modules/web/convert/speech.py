"""Text to speech by Microsoft's service: the one thing of the page that needs the internet."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from modules.errors import UserError

VOICES = (
    "en-US-AriaNeural", "en-US-GuyNeural", "en-GB-SoniaNeural", "en-GB-RyanNeural", "zh-CN-XiaoxiaoNeural",
    "zh-CN-YunxiNeural", "zh-CN-XiaoyiNeural", "zh-TW-HsiaoChenNeural", "ja-JP-NanamiNeural", "ja-JP-KeitaNeural",
    "ko-KR-SunHiNeural", "fr-FR-DeniseNeural", "de-DE-KatjaNeural", "es-ES-ElviraNeural", "ru-RU-SvetlanaNeural",
)  # fmt: skip
VOICE_NAME = re.compile(r"[a-z]{2,3}-[A-Za-z-]{2,20}-[A-Za-z]{2,40}")
LONGEST_TEXT = 5000  # characters
PATIENCE = 60.0  # seconds


class Unreachable(Exception):
    """The service cannot be reached."""


def speak(text: str, voice: str, rate: int, target: Path) -> None:
    """Write speech to ``target`` as mp3.

    Raises:
        UserError: no text, too much of it, or no such voice.
        ImportError: the package is not installed.
        Unreachable: there is no way to the service, or it answers nothing useful.
    """
    if not text.strip() or len(text) > LONGEST_TEXT:
        raise UserError(f"the text has {len(text)} characters", "", f"write some, at most {LONGEST_TEXT}")
    if not VOICE_NAME.fullmatch(voice):
        raise UserError(f"there is no voice {voice!r}", "", "choose one of the list")
    import edge_tts

    sign = f"{max(-90, min(100, rate)):+d}%"
    try:
        communicate = edge_tts.Communicate(text, voice, rate=sign, connect_timeout=10, receive_timeout=30)
        asyncio.run(asyncio.wait_for(communicate.save(str(target)), PATIENCE))
    except Exception as error:  # aiohttp, websockets, timeouts: to the user all of them mean the same
        target.unlink(missing_ok=True)
        raise Unreachable(str(error)) from error
