"""The paper's predictor: three linear layers, 600 hidden units, ReLU, on (l, d, mean heads, mean MLP width).

It learns the logarithm of the latency, so that small members count as much as large ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from coformer_compiler.profiling.table import Floats

HIDDEN = 600
EPOCHS, BATCH, LEARNING_RATE = 300, 64, 1e-3

Weights = Mapping[str, npt.NDArray[np.float32]]


def fit_mlp(features: Floats, latency_ms: Floats, seed: int = 0) -> Weights:
    """Weights of the network, with mean and deviation of its inputs.

    Args:
        features: `(rows, 4)`.
        latency_ms: `(rows,)`, measured.
        seed: of the first weights and of the order of the batches.
    """
    import torch
    from torch import nn

    mean, std = features.mean(0), np.maximum(features.std(0), 1e-9)
    inputs = torch.tensor((features - mean) / std, dtype=torch.float32)
    wanted = torch.tensor(np.log(latency_ms), dtype=torch.float32)
    offset = wanted.mean()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(features.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
        )
        steps = EPOCHS * -(-len(inputs) // BATCH)
        optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(inputs)).split(BATCH):
                optimizer.zero_grad()
                loss = (net(inputs[chosen])[:, 0] + offset - wanted[chosen]).square().mean()
                loss.backward()
                optimizer.step()
                schedule.step()
    state = {f"layers.{name}": tensor.numpy() for name, tensor in net.state_dict().items()}
    last = f"layers.{len(net) - 1}.bias"
    state[last] = state[last] + float(offset)
    return {"mean": mean.astype(np.float32), "std": std.astype(np.float32), **state}


def mlp_latency_ms(weights: Weights, features: Floats) -> Floats:
    """`(rows,)` for features `(rows, 4)`."""
    x = (features - weights["mean"]) / weights["std"]
    for layer in (0, 2):
        x = np.maximum(x @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"], 0)
    found: Floats = np.exp(x @ weights["layers.4.weight"].T + weights["layers.4.bias"])[:, 0]
    return found
