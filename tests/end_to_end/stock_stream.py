"""What a stock tritonclient's stream shows of a generation. Run by its own interpreter: stock_stream.py HOST:PORT.

Prints JSON. Imports nothing of this project.
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton


def main(address):
    client = triton.InferenceServerClient(address)
    arrived = queue.Queue()
    client.start_stream(callback=lambda result, error: arrived.put((result, error)))

    def ask(ids, **parameters):
        given = triton.InferInput("ids", [1, len(ids)], "INT32")
        given.set_data_from_numpy(np.array([ids], np.int32))
        client.async_stream_infer("coformer", [given], request_id="7", parameters=parameters)
        tokens = []
        while True:
            result, error = arrived.get(timeout=60)
            if error is not None:
                return tokens, str(error)
            response = result.get_response()
            tokens.append(int(result.as_numpy("token")[0, 0]))
            if response.parameters["triton_final_response"].bool_param:
                return tokens, response.id

    seen = {
        "greedy": ask([3, 1, 4], max_tokens=5),
        "refused": ask([3, 1, 4], max_tokens=1000),
        "unknown": ask([3, 1, 4], max_token=5),
        "again": ask([3, 1, 4], max_tokens=5, temperature="0"),
    }
    client.stop_stream()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
