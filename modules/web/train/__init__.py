"""The tab that prepares recordings and trains."""
