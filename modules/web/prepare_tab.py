"""The tab that prepares recordings and trains."""

from __future__ import annotations

from modules.web.page import Page


def build_prepare_tab(page: Page) -> None:
    """Add what is in the tab."""
