"""Metrics, intervals, splits and baselines."""
