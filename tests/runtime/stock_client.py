"""What a stock tritonclient does with a central node. Run by its own interpreter: stock_client.py HOST:PORT.

Prints JSON: what was seen. Imports nothing of this project.
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def main(address):
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
    seen = {
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
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
