"""The tab that mixes, releases and exports models."""

from __future__ import annotations

from modules.web.page import Page


def build_tools_tab(page: Page) -> None:
    """Add what is in the tab."""
