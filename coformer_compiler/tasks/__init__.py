"""What answers are for: classes, numbers or embeddings; each with its loss and its metrics."""

from coformer_compiler.tasks.metrics import Metric
from coformer_compiler.tasks.task import CLASSIFICATION, EMBEDDING, REGRESSION, Task

__all__ = ["CLASSIFICATION", "EMBEDDING", "REGRESSION", "Metric", "Task"]
