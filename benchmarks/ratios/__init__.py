"""Ratios of times of this library and its peers, whose processes take turns: the harness of ``report.py``."""
