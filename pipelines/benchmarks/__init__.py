"""Measurements that a person runs: how fast, how good."""
