"""Trying a bundle on live traffic: who gets it, what it is held against, when it is stopped. Pure."""
