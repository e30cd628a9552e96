"""HTTP services."""
