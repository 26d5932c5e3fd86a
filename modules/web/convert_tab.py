"""The tab that converts songs."""

from __future__ import annotations

from modules.web.page import Page


def build_convert_tab(page: Page) -> None:
    """Add what is in the tab."""
