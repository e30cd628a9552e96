"""Headrace: a search-and-recommendation system that keeps itself fresh."""
