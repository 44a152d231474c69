"""ONNX to ONNX passes: one pass per file, one literal pipeline per engine kind."""
