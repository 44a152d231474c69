"""Compiles one pretrained transformer into one small model per edge device (the CoFormer method)."""

__version__ = "0.1.0"
