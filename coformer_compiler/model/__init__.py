"""The canonical transformer: a small vocabulary of blocks that every model family is imported into.

One block kind a file. A block knows all that is special to its kind: `forward` (torch), `take` (a smaller block from
kept indices), `lower` (ONNX nodes) and `cost` (FLOPs, parameters, activation bytes).
"""
