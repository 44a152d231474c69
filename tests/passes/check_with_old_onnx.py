"""Runs under Python 3.6 with onnx 1.8.1 and onnxruntime 1.10.0: python check_with_old_onnx.py GRAPH INPUTS OUTPUTS."""

import sys

import numpy as np
import onnx
import onnxruntime


def main(graph_path, inputs_path, outputs_path):
    graph = onnx.load(graph_path)
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph_path, providers=["CPUExecutionProvider"])
    feeds = dict(np.load(inputs_path))
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, feeds)
    np.savez(outputs_path, **{name: results[index] for index, name in enumerate(names)})
    print(sys.version_info[:2], onnx.__version__, onnxruntime.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
