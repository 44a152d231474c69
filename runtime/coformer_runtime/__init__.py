"""Runs one device's share of a decomposed transformer, and the one-round aggregation of all of them."""

__version__ = "0.1.0"
