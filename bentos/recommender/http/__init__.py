"""Connections, callers, limits and the way to the answers."""
