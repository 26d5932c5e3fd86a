"""What ``benchmarks/quality.py`` does: convert, score, and write the report. Importing this package is cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.lazy import lazy_names

if TYPE_CHECKING:
    from modules.quality.command import measure
    from modules.quality.request import Request

__all__ = ["Request", "measure"]

__getattr__ = lazy_names(__name__, {"Request": "modules.quality.request", "measure": "modules.quality.command"})
