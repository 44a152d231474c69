"""The configuration of a build: a TOML file, or the command line alone, to frozen data.

Unknown keys are refused with the nearest known one. Paths are relative to the file that names them.
"""

from coformer_compiler.config.bandwidths import bandwidths_from_text
from coformer_compiler.config.overrides import Overrides, scalar
from coformer_compiler.config.read import BuildConfig, read_config
from coformer_compiler.config.sections import ConfigSection, PolicySection

__all__ = [
    "BuildConfig",
    "ConfigSection",
    "Overrides",
    "PolicySection",
    "bandwidths_from_text",
    "read_config",
    "scalar",
]
