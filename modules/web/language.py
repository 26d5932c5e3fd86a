"""How the page speaks two languages; what every tab says is in a file of its own, texts_<tab>.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
NAMES: dict[Language, str] = {"en": "English", "zh": "中文"}
LOCALES: dict[Language, str] = {"en": "en", "zh": "zh-CN"}  # what Gradio's own words are chosen by


@dataclass(frozen=True)
class Text:
    """One text of the page in English and in Chinese; {names} in braces are filled in by ``say``."""

    en: str
    zh: str

    def say(self, language: Language, **values: object) -> str:
        """The text in a language with its values filled in."""
        text: str = getattr(self, language)
        return text.format(**values) if values else text


def preferred_language(accept_language: str) -> Language:
    """The language of an Accept-Language header: Chinese where it stands before English, else English."""
    wishes: list[tuple[float, Language]] = []
    for part in accept_language.split(","):
        tag, _, quality = part.strip().partition(";")
        language = tag.strip().lower().split("-")[0]
        for known in LANGUAGES:
            if language == known:
                wishes.append((_quality(quality), known))
    return max(wishes, key=lambda wish: wish[0])[1] if wishes else "en"


def _quality(parameter: str) -> float:
    try:
        return float(parameter.strip().removeprefix("q=")) if parameter.strip() else 1.0
    except ValueError:
        return 0.0


class Common:
    """What no tab owns."""

    TITLE = Text("Singing voice conversion", "歌声转换")
    ERROR = Text("That did not work", "操作未成功")
    WARNING = Text("Note", "提示")
    WHERE = Text("where", "位置")
    TO_DO = Text("what to do", "解决办法")
    UNEXPECTED = Text(
        "Something went wrong inside the program. Switch on “Show details of errors” at the foot of the page, try "
        "again, and report what it says.",
        "程序内部出错。请打开页面底部的“显示错误详情”，重试后把显示的内容反馈给开发者。",
    )
    DEBUG = Text("Show details of errors", "显示错误详情")
    DEBUG_ON = Text("Errors now show where they come from.", "现在出错时会显示详细信息。")
    DEBUG_OFF = Text("Errors now show a short message.", "现在出错时只显示简短信息。")
