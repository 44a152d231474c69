"""What answers are for: classes, numbers, embeddings or the next word; each with its loss and its metrics."""

from coformer_compiler.tasks.metrics import Metric
from coformer_compiler.tasks.task import CLASSIFICATION, EMBEDDING, LANGUAGE, REGRESSION, Task

__all__ = ["CLASSIFICATION", "EMBEDDING", "LANGUAGE", "REGRESSION", "Metric", "Task"]
