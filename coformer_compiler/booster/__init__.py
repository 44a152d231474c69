"""Booster: the members learn from the teacher one after the other, then all together (Algorithm 1, lines 12 to 15)."""

from coformer_compiler.booster.boost import BoosterResult, boost
from coformer_compiler.booster.history import History
from coformer_compiler.booster.options import BoosterOptions

__all__ = ["BoosterOptions", "BoosterResult", "History", "boost"]
