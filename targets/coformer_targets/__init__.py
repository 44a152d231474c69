"""What each device is (one TOML file each) and how an engine is built for it."""

from coformer_targets.builders import EngineInfo, engine_from_onnx, recipe_for
from coformer_targets.legality import OperatorRule, OperatorTable, operator_table, operator_table_of
from coformer_targets.target import (
    Target,
    load_target,
    load_target_file,
    strongly_typed,
    target_names,
    target_variants,
    tensorrt_older_than,
    with_precision,
)

__all__ = [
    "EngineInfo",
    "OperatorRule",
    "OperatorTable",
    "Target",
    "engine_from_onnx",
    "load_target",
    "load_target_file",
    "operator_table",
    "operator_table_of",
    "recipe_for",
    "strongly_typed",
    "target_names",
    "target_variants",
    "tensorrt_older_than",
    "with_precision",
]
