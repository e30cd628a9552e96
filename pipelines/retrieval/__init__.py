"""Candidate generators: dense, lexical, co-occurrence, popular."""
