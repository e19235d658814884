"""Layers forward and backward in NumPy and f64, and optimisers: what training is held to. It shares nothing with mdsl.

Images are kept as (channels, batch, height, width): a convolution is then one matrix product whose result
is already in place, and a channel's statistics are those of one contiguous row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


class Layer:
    """A differentiable function. `forward` keeps what `backward` needs; `backward` fills `gradients`."""

    name = ""

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}  # learned
        self.gradients: dict[str, Array] = {}  # of the loss, one for each parameter
        self.statistics: dict[str, Array] = {}  # saved with the parameters, but observed, not learned

    def forward(self, x: Array, training: bool) -> Array:
        raise TypeError(f"{type(self).__name__} has no forward")

    def backward(self, dy: Array) -> Array:
        raise TypeError(f"{type(self).__name__} has no backward")


class Conv2d(Layer):
    """Stride 1, `kernel // 2` zeros on each side, so the size of the image stays; weight (out, in, k, k)."""

    def __init__(self, name: str, inputs: int, outputs: int, kernel: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.name, self.kernel = name, kernel
        self.parameters["weight"] = he_normal(rng, (outputs, inputs, kernel, kernel))
        self.parameters["bias"] = np.zeros(outputs, np.float64)

    def forward(self, x: Array, training: bool) -> Array:
        self.input_shape = x.shape
        self.columns = self._columns(x)
        weight = self.parameters["weight"]
        y = weight.reshape(len(weight), -1) @ self.columns + self.parameters["bias"][:, None]
        return y.reshape(-1, *x.shape[1:])

    def backward(self, dy: Array) -> Array:
        dy = dy.reshape(len(dy), -1)
        weight = self.parameters["weight"]
        self.gradients["weight"] = (dy @ self.columns.T).reshape(weight.shape)
        self.gradients["bias"] = dy.sum(axis=1)
        return self._image(weight.reshape(len(weight), -1).T @ dy)

    def _windows(self) -> Iterator[tuple[int, slice, slice]]:
        """For each of the k x k weights, the part of the padded image that it meets."""
        height, width = self.input_shape[2:]
        for i in range(self.kernel):
            for j in range(self.kernel):
                yield i * self.kernel + j, slice(i, i + height), slice(j, j + width)

    def _columns(self, x: Array) -> Array:
        """im2col: (channels * k * k, batch * height * width)."""
        pad = self.kernel // 2
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        columns = np.empty((x.shape[0], self.kernel**2, *x.shape[1:]), np.float64)
        for index, rows, cols in self._windows():
            columns[:, index] = padded[:, :, rows, cols]
        return columns.reshape(x.shape[0] * self.kernel**2, -1)

    def _image(self, columns: Array) -> Array:
        """The adjoint of `_columns`: each pixel gets the sum of its copies."""
        channels, batch, height, width = self.input_shape
        pad = self.kernel // 2
        columns = columns.reshape(channels, self.kernel**2, batch, height, width)
        padded = np.zeros((channels, batch, height + 2 * pad, width + 2 * pad), np.float64)
        for index, rows, cols in self._windows():
            padded[:, :, rows, cols] += columns[:, index]
        return padded[:, :, pad : pad + height, pad : pad + width]


class BatchNorm(Layer):
    """By channel; the running mean and variance that inference uses follow with momentum 0.1."""

    epsilon = np.float64(1e-5)
    momentum = np.float64(0.1)

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.name = name
        self.parameters["scale"] = np.ones(channels, np.float64)
        self.parameters["shift"] = np.zeros(channels, np.float64)
        self.statistics["mean"] = np.zeros(channels, np.float64)
        self.statistics["variance"] = np.ones(channels, np.float64)

    def forward(self, x: Array, training: bool) -> Array:
        rows = x.reshape(len(x), -1)
        if training:
            mean, variance = rows.mean(axis=1), rows.var(axis=1)
            for key, observed in (("mean", mean), ("variance", variance)):
                self.statistics[key] += self.momentum * (observed - self.statistics[key])
        else:
            mean, variance = self.statistics["mean"], self.statistics["variance"]
        self.inverse_std: Array = np.reciprocal(np.sqrt(variance + self.epsilon), dtype=np.float64)
        self.normalised = (rows - mean[:, None]) * self.inverse_std[:, None]
        y = self.normalised * self.parameters["scale"][:, None] + self.parameters["shift"][:, None]
        return y.reshape(x.shape)

    def backward(self, dy: Array) -> Array:
        rows = dy.reshape(len(dy), -1)
        dscale, dshift = (rows * self.normalised).sum(axis=1), rows.sum(axis=1)
        self.gradients.update(scale=dscale, shift=dshift)
        mean_part = (dshift[:, None] + self.normalised * dscale[:, None]) / np.float64(rows.shape[1])
        factor = (self.parameters["scale"] * self.inverse_std)[:, None]
        return (factor * (rows - mean_part)).reshape(dy.shape)


class Relu(Layer):
    def forward(self, x: Array, training: bool) -> Array:
        self.positive = x > 0
        return x * self.positive

    def backward(self, dy: Array) -> Array:
        return dy * self.positive


class MaxPool2(Layer):
    """The largest of each 2 x 2 pixels."""

    def forward(self, x: Array, training: bool) -> Array:
        channels, batch, height, width = x.shape
        blocks = x.reshape(channels, batch, height // 2, 2, width // 2, 2)
        y = blocks.max(axis=(3, 5), keepdims=True)
        # Pixels that tie all get the gradient; after a relu they tie at 0, where it stops anyway.
        self.chosen = blocks == y
        return y.reshape(channels, batch, height // 2, width // 2)

    def backward(self, dy: Array) -> Array:
        channels, batch, height, width = dy.shape
        dx = self.chosen * dy.reshape(channels, batch, height, 1, width, 1)
        return dx.reshape(channels, batch, 2 * height, 2 * width)


class Flatten(Layer):
    """(channels, batch, height, width) to (batch, channels * height * width)."""

    def forward(self, x: Array, training: bool) -> Array:
        self.input_shape = x.shape
        return np.ascontiguousarray(x.swapaxes(0, 1)).reshape(x.shape[1], -1)

    def backward(self, dy: Array) -> Array:
        channels, batch, height, width = self.input_shape
        return np.ascontiguousarray(dy.reshape(batch, channels, height, width).swapaxes(0, 1))


class Linear(Layer):
    """x (batch, in) @ weight (out, in) transposed + bias (out)."""

    def __init__(self, name: str, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.name = name
        self.parameters["weight"] = he_normal(rng, (outputs, inputs))
        self.parameters["bias"] = np.zeros(outputs, np.float64)

    def forward(self, x: Array, training: bool) -> Array:
        self.input = x
        return x @ self.parameters["weight"].T + self.parameters["bias"]

    def backward(self, dy: Array) -> Array:
        self.gradients.update(weight=dy.T @ self.input, bias=dy.sum(axis=0))
        return dy @ self.parameters["weight"]


class Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015)."""

    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.step_count = 0
        self.moments = {
            (layer.name, key): (np.zeros_like(value), np.zeros_like(value))
            for layer in layers
            for key, value in layer.parameters.items()
        }

    def step(self, rate: float) -> None:
        self.step_count += 1
        rate *= (1 - self.beta2**self.step_count) ** 0.5 / (1 - self.beta1**self.step_count)
        for layer in self.layers:
            for key, value in layer.parameters.items():
                gradient = layer.gradients[key]
                mean, square = self.moments[layer.name, key]
                mean += (1 - self.beta1) * (gradient - mean)
                square += (1 - self.beta2) * (gradient * gradient - square)
                value -= rate * mean / (np.sqrt(square) + self.epsilon)


def softmax_cross_entropy(logits: Array, labels: NDArray[np.uint8]) -> tuple[float, Array]:
    """The mean loss of a batch, and its gradient by the logits (batch, classes)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -float(np.log(probabilities[rows, labels] + 1e-12).mean())
    probabilities[rows, labels] -= 1
    return loss, probabilities / np.float64(len(labels))


def he_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Keeps the variance through relu: He et al. (2015), "Delving Deep into Rectifiers"; (out, in, ...)."""
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float64)
