"""The MLP and each of its activations against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coformer_compiler.model.mlp import ACTIVATIONS, Mlp
from coformer_compiler.model.spec import Activation, MlpSpec


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FORMULAS = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x * sigmoid(x),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "tanh": math.tanh,
}


def random_mlp(activation: Activation = "gelu", reader_bias: bool = True, gated: bool = False) -> Mlp:
    torch.manual_seed(2)
    made = Mlp(MlpSpec(6, 9, 5, activation, reader_bias, gated=gated))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def test_every_activation_has_a_formula() -> None:
    assert set(ACTIVATIONS) == set(FORMULAS)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reader_bias", [True, False])
@pytest.mark.parametrize("activation", FORMULAS)
@torch.no_grad()
def test_forward_is_the_definition(activation: Activation, reader_bias: bool, gated: bool) -> None:
    mlp = random_mlp(activation, reader_bias, gated)
    x = torch.randn(2, 3, 6)
    weights = {name: tensor.double().numpy() for name, tensor in mlp.state_dict().items()}
    hidden = x.double().numpy() @ weights["reader.weight"].T + weights.get("reader.bias", 0)
    gates = np.vectorize(FORMULAS[activation])(hidden[..., :9])
    hidden = gates * hidden[..., 9:] if gated else gates
    want = hidden @ weights["writer.weight"].T + weights["writer.bias"]
    np.testing.assert_allclose(mlp(x).numpy(), want, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_take_by_hand() -> None:
    mlp = random_mlp("silu")
    taken = mlp.take([8, 0, 3], [5, 1], [4, 2, 0])
    assert taken.spec == MlpSpec(2, 3, 3, "silu")
    assert torch.equal(taken.reader.weight, mlp.reader.weight[[8, 0, 3]][:, [5, 1]])
    assert torch.equal(taken.reader.bias, mlp.reader.bias[[8, 0, 3]])
    assert torch.equal(taken.writer.weight, mlp.writer.weight[[4, 2, 0]][:, [8, 0, 3]])
    assert torch.equal(taken.writer.bias, mlp.writer.bias[[4, 2, 0]])


@torch.no_grad()
def test_a_gated_neuron_takes_its_value_along() -> None:
    mlp = random_mlp(gated=True)
    taken = mlp.take([8, 0, 3], [5, 1], [4, 2, 0])
    assert taken.spec == MlpSpec(2, 3, 3, gated=True)
    assert torch.equal(taken.reader.weight, mlp.reader.weight[[8, 0, 3, 17, 9, 12]][:, [5, 1]])
    assert torch.equal(taken.reader.bias, mlp.reader.bias[[8, 0, 3, 17, 9, 12]])
    assert torch.equal(taken.writer.weight, mlp.writer.weight[[4, 2, 0]][:, [8, 0, 3]])


@torch.no_grad()
def test_neurons_add_up() -> None:
    mlp = random_mlp()
    x = torch.randn(2, 3, 6)
    halves = [mlp.take(part, range(6), range(5))(x) - mlp.writer.bias for part in ([0, 2, 4, 6, 8], [1, 3, 5, 7])]
    torch.testing.assert_close(sum(halves) + mlp.writer.bias, mlp(x), atol=1e-5, rtol=0)


def test_take_without_reader_bias_has_none() -> None:
    taken = random_mlp(reader_bias=False).take([1], range(6), range(5))
    assert taken.reader.bias is None
    assert not taken.spec.reader_bias
