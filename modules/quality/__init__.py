"""What ``benchmarks/quality.py`` does: convert, judge, and write the report."""
