"""A program that boosts the small members on CUDA, stopped and resumed or not.

Usage: boosting.py WORKDIR OUTPUT [STOP_AFTER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from coformer_compiler.booster import BoosterOptions
from tests.compiler.booster.small import small_boost, write_result
from tests.compiler.booster.test_resume import Killed, KillingProgress

OPTIONS = BoosterOptions(
    steps=10, batch=32, joint_steps=6, checkpoint_every=4, augmentation="shift", refit_heads=False, device="cuda"
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    workdir, output = Path(sys.argv[1]), Path(sys.argv[2])
    if len(sys.argv) > 3:
        try:
            small_boost(workdir, OPTIONS, progress=KillingProgress(int(sys.argv[3])))
        except Killed:
            print("stopped")
    write_result(output, small_boost(workdir, OPTIONS))
