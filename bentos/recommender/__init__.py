"""The search-and-recommendation service."""
