"""The tab that converts songs."""
