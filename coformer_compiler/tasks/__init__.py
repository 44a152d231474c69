"""What answers are for: classes, numbers, embeddings or the next word; each with its loss and its metrics."""

from coformer_compiler.tasks.metrics import IGNORED, Metric
from coformer_compiler.tasks.task import CLASSIFICATION, EMBEDDING, LANGUAGE, REGRESSION, TEXT_TO_TEXT, Task

__all__ = ["CLASSIFICATION", "EMBEDDING", "IGNORED", "LANGUAGE", "REGRESSION", "TEXT_TO_TEXT", "Metric", "Task"]
