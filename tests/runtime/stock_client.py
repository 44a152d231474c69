"""What a stock tritonclient does with a central node. Run by its own interpreter.

    stock_client.py HOST:PORT                             # a little of everything
    stock_client.py HOST:PORT --load 4 --requests 1000    # so many requests at a time

Prints JSON: what was seen. Imports nothing of this project.
"""

import argparse
import json
import queue
import threading
import time

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

WARM_UP = 5  # requests of each client that do not count
ERRORS = 5  # that are told


def everything(address):
    client = triton.InferenceServerClient(address)
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    given = triton.InferInput("pixels", [1, 1, 4, 4], "UINT8")
    given.set_data_from_numpy(pixels)
    metadata = client.get_model_metadata("coformer", as_json=True)
    config = client.get_model_config("coformer", as_json=True)["config"]
    result = client.infer("coformer", [given], request_id="7", outputs=[triton.InferRequestedOutput("logits")])
    response = result.get_response()
    done = queue.Queue()
    for _ in range(200):
        client.async_infer("coformer", [given], callback=lambda result, error: done.put((result, error)))
    many = [done.get(timeout=30) for _ in range(200)]
    refused = ""
    wrong = triton.InferInput("pixels", [1, 1, 4, 5], "UINT8")
    wrong.set_data_from_numpy(np.zeros((1, 1, 4, 5), np.uint8))
    try:
        client.infer("coformer", [wrong])
    except InferenceServerException as error:
        refused = str(error)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready() and client.is_model_ready("coformer"),
        "server": client.get_server_metadata(as_json=True)["name"],
        "inputs": metadata["inputs"],
        "config": [config["name"], config["input"][0]["data_type"], config["output"][0]["data_type"]],
        "id": response.id,
        "members": response.parameters["members"].string_param,
        "logits": result.as_numpy("logits").tolist(),
        "same": sum(
            error is None and np.array_equal(other.as_numpy("logits"), result.as_numpy("logits"))
            for other, error in many
        ),
        "busy": sum(error is not None and "RESOURCE_EXHAUSTED" in str(error) for _, error in many),
        "refused": refused,
    }


class Sender(threading.Thread):
    """One client that sends one request after the other, all with an input of its own.

    Attributes:
        seconds: of each request that was answered.
        engine_ms: of each, the slowest engine's own time, as the answer's parameters say.
        errors: of the others, and of answers that differ from the first one.
        first: the first answer.
    """

    def __init__(self, address, number, count, start, shape):
        super().__init__(daemon=True)
        self.seconds, self.engine_ms, self.errors, self.first = [], [], [], None
        self._client, self._count, self._start = triton.InferenceServerClient(address), count, start
        self.pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        self._given = triton.InferInput("pixels", list(shape), "UINT8")
        self._given.set_data_from_numpy(self.pixels)

    def run(self):
        for _ in range(WARM_UP):
            self._ask()
        self.seconds, self.engine_ms = [], []  # errors count from the first request
        self._start.wait()
        for _ in range(self._count):
            self._ask()

    def _ask(self):
        began = time.perf_counter()
        try:
            result = self._client.infer("coformer", [self._given])
        except InferenceServerException as error:
            self.errors.append(str(error))
            return
        self.seconds.append(time.perf_counter() - began)
        told, logits = result.get_response().parameters, result.as_numpy("logits")
        self.engine_ms.append(max(told[name].double_param for name in told if name.startswith("compute_ms.")))
        if self.first is None:
            self.first = logits
        elif not np.array_equal(logits, self.first):
            self.errors.append("another answer to the same input")


def quantile_ms(seconds, q):
    return round(float(np.percentile(seconds, q)) * 1e3, 3) if seconds else 0.0


def load(address, concurrency, requests):
    client = triton.InferenceServerClient(address)
    shape = [int(size) for size in client.get_model_metadata("coformer").inputs[0].shape]
    counts = [requests // concurrency + (number < requests % concurrency) for number in range(concurrency)]
    start = threading.Barrier(concurrency + 1)
    senders = [Sender(address, number, count, start, shape) for number, count in enumerate(counts)]
    for sender in senders:
        sender.start()
    start.wait()
    began = time.perf_counter()
    for sender in senders:
        sender.join()
    took = time.perf_counter() - began
    errors = [error for sender in senders for error in sender.errors]
    times = [each for sender in senders for each in sender.seconds]
    engine_ms = [each for sender in senders for each in sender.engine_ms]
    small = int(np.prod(shape)) <= 100
    return {
        "concurrency": concurrency,
        "answered": len(times),
        "errors": len(errors),
        "first_errors": errors[:ERRORS],
        "per_s": round(len(times) / took, 3),
        "latency_ms": {"p50": quantile_ms(times, 50), "p99": quantile_ms(times, 99)},
        "slowest_engine_ms": round(float(np.median(engine_ms)), 3) if engine_ms else 0.0,
        "sample": [
            [each.pixels.flatten().tolist(), each.first.tolist()]
            for each in senders
            if small and each.first is not None
        ],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--load", type=int, metavar="CONCURRENCY")
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    asked = options.load is not None
    print(json.dumps(load(options.address, options.load, options.requests) if asked else everything(options.address)))


if __name__ == "__main__":
    main()
