"""The tab that mixes, releases and exports models."""
