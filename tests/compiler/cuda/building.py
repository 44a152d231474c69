"""A program that runs `coformerc` where torch finds CUDA. Usage: building.py ARGUMENT..."""

from __future__ import annotations

import sys

import torch

from coformer_compiler.cli import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
