"""What each device is (one TOML file each) and how an engine is built for it."""

from coformer_targets.target import Target, load_target, load_target_file, target_names, tensorrt_older_than

__all__ = ["Target", "load_target", "load_target_file", "target_names", "tensorrt_older_than"]
