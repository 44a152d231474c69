"""Data sets: one file per kind, each one function from a location to three splits."""

from coformer_compiler.data.dataset import DataSet, Split
from coformer_compiler.data.load import KINDS, load_data

__all__ = ["KINDS", "DataSet", "Split", "load_data"]
