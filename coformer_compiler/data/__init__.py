"""Data sets: one file per kind, each one function from a location to three splits."""

from coformer_compiler.data.dataset import DataSet, Split
from coformer_compiler.data.load import (
    KINDS,
    RUNNING_KINDS,
    TEXT_KINDS,
    WRITTEN_KINDS,
    load_data,
    load_running_text,
    load_text2text,
    load_texts,
)

__all__ = [
    "KINDS",
    "RUNNING_KINDS",
    "TEXT_KINDS",
    "WRITTEN_KINDS",
    "DataSet",
    "Split",
    "load_data",
    "load_running_text",
    "load_text2text",
    "load_texts",
]
