"""What ``benchmarks/quality.py`` does: convert, score, and write the report."""
