"""Gradients of layers beside torch's: a module of torch, exported with its weights as inputs, imported, differentiated."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdsl

pytest.importorskip("onnx")
torch: Any = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

ENGINES: dict[str, dict[str, Any]] = {
    "micro-kernels": {},
    "jit": {"engine": "jit", "threads": 2},
    "interpreted": {"ukernels": False},
}


class Call(nn.Module):
    """A function of tensors as a module without weights."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Any) -> Any:
        return self.function(*tensors)


def exported(module: Any, tensors: Sequence[Any], folder: Path) -> Path:
    """The module as a model whose weights are inputs too, behind the others and in their order."""
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tuple(tensors), str(path), dynamo=False, do_constant_folding=False, opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE, export_params=False,
        )  # fmt: skip
    return path


@dataclass(frozen=True)
class Layer:
    """What makes a module, the shapes of its inputs, and arrays that are given as they are behind them."""

    make: Callable[[], Any]
    shapes: tuple[tuple[int, ...], ...]
    given: tuple[np.ndarray, ...] = ()


def layer(make: Callable[[], Any], *shapes: tuple[int, ...], given: tuple[Any, ...] = ()) -> Layer:
    return Layer(make, shapes, tuple(np.asarray(array) for array in given))


def of(function: Callable[..., Any], *shapes: tuple[int, ...], given: tuple[Any, ...] = ()) -> Layer:
    return layer(lambda: Call(function), *shapes, given=given)


def conv(ins: int, outs: int, kernel: Any, size: tuple[int, ...], batch: int = 2, **options: Any) -> Layer:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
    return layer(lambda: kind(ins, outs, kernel, **options), (batch, ins, *size))


def transposed(ins: int, outs: int, kernel: Any, size: tuple[int, ...], **options: Any) -> Layer:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[len(size) - 1]
    return layer(lambda: kind(ins, outs, kernel, **options), (2, ins, *size))


LABELS = [3, 0, 2, 2, 1]
POSITIONS = [[0, 3, 1], [3, 3, 2]]
MASK = np.array([[True, False, True, True]])

LAYERS: dict[str, Layer] = {
    "conv": conv(3, 4, 3, (8, 8), padding=1),
    "conv of one sample, odd sizes": conv(3, 5, (3, 5), (7, 9), batch=1, padding=(1, 2)),
    "conv 1x1": conv(5, 7, 1, (5, 3)),
    "conv 1x1, stride 2": conv(5, 7, 1, (5, 7), stride=2),
    "conv 3x3, stride 2": conv(4, 6, 3, (9, 8), stride=2, padding=1),
    "conv 7x7, stride 2": conv(3, 8, 7, (15, 15), stride=2, padding=3),
    "conv, groups": conv(6, 4, 3, (6, 6), groups=2, padding=1),
    "conv, depthwise": conv(6, 6, 3, (7, 7), groups=6, padding=1, stride=2),
    "conv, depthwise with multiplier": conv(3, 6, 3, (7, 5), groups=3),
    "conv, dilation": conv(3, 4, 3, (9, 9), dilation=2, padding=2),
    "conv, dilation, stride and groups": conv(4, 6, 3, (11, 10), dilation=2, stride=3, groups=2, padding=1),
    "conv, stride larger than the kernel": conv(3, 4, 2, (11, 11), stride=5),
    "conv 1x1, stride larger than the kernel": conv(3, 4, 1, (8, 7), stride=3, padding=1),
    "conv, no bias": conv(3, 4, 3, (6, 6), bias=False),
    "conv, sizes of one": conv(1, 1, 1, (1, 1), batch=1),
    "conv, one pixel under a larger window": conv(2, 3, 3, (1, 1), batch=1, padding=1),
    "conv, one row": conv(2, 3, (1, 3), (1, 9), batch=1),
    "conv, window of the whole image": conv(3, 4, 6, (6, 6)),
    "conv of many channels": conv(32, 48, 3, (7, 7), padding=1),
    "conv 1d": conv(3, 4, 3, (9,), stride=2, padding=1),
    "conv 3d": conv(2, 3, 3, (4, 5, 6), padding=1),
    "transposed conv": transposed(3, 4, 3, (5, 6), stride=2, padding=1, output_padding=1),
    "transposed conv, groups": transposed(4, 6, 2, (5, 4), stride=3, groups=2),
    "transposed conv, dilation": transposed(3, 2, 3, (4, 4), dilation=2),
    "transposed conv 1d": transposed(3, 2, 4, (7,), stride=2, padding=1),
    "linear": layer(lambda: nn.Linear(7, 5), (3, 7)),
    "linear of three dimensions": layer(lambda: nn.Linear(7, 5, bias=False), (2, 3, 7)),
    "linear, sizes of one": layer(lambda: nn.Linear(1, 1), (1, 1)),
    "matmul": of(torch.matmul, (5, 7), (7, 3)),
    "matmul, batches": of(torch.matmul, (4, 1, 5, 7), (3, 7, 2)),
    "matmul, vector": of(torch.matmul, (2, 5, 7), (7,)),
    "einsum": of(lambda a, b: torch.einsum("bij,bkj->bik", a, b), (2, 3, 5), (2, 4, 5)),
    "max pool": layer(lambda: nn.MaxPool2d(2), (2, 3, 6, 8)),
    "max pool, overlapping": layer(lambda: nn.MaxPool2d(3, 2, 1), (1, 3, 7, 7)),
    "max pool, stride larger than the kernel": layer(lambda: nn.MaxPool2d(2, 3), (1, 2, 8, 9)),
    "max pool, ceil": layer(lambda: nn.MaxPool2d(3, 2, ceil_mode=True), (1, 2, 8, 8)),
    "max pool, dilation": layer(lambda: nn.MaxPool2d(2, 1, dilation=2), (1, 2, 6, 5)),
    "max pool, one pixel": layer(lambda: nn.MaxPool2d(3, 1, 1), (1, 1, 1, 1)),
    "max pool 1d": layer(lambda: nn.MaxPool1d(3, 2), (2, 3, 9)),
    "max pool of equal elements": of(lambda x: F.max_pool2d(F.relu(x) * 0 + x.sum(), 2), (1, 2, 4, 4)),
    "average pool": layer(lambda: nn.AvgPool2d(2), (2, 3, 6, 8)),
    "average pool, padding": layer(lambda: nn.AvgPool2d(3, 2, 1), (1, 3, 7, 7)),
    "average pool, padding not counted": layer(
        lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 3, 7, 7)
    ),
    "average pool, global": layer(lambda: nn.AdaptiveAvgPool2d(1), (2, 5, 4, 3)),
    "average pool 1d": layer(lambda: nn.AvgPool1d(3, 2), (2, 3, 9)),
    "batch norm": layer(lambda: nn.BatchNorm2d(4), (3, 4, 5, 5)),
    "batch norm of two dimensions": layer(lambda: nn.BatchNorm1d(6), (8, 6)),
    "batch norm of one sample": layer(lambda: nn.BatchNorm2d(3), (1, 3, 2, 2)),
    "batch norm in inference": layer(lambda: nn.BatchNorm2d(4).eval(), (3, 4, 5, 5)),
    "layer norm": layer(lambda: nn.LayerNorm(9), (4, 9)),
    "layer norm of two dimensions": layer(lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
    "layer norm without weights": layer(lambda: nn.LayerNorm(9, elementwise_affine=False), (2, 4, 9)),
    "group norm": layer(lambda: nn.GroupNorm(2, 6), (2, 6, 4, 5)),
    "instance norm": layer(lambda: nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 5)),
    "local response norm": layer(lambda: nn.LocalResponseNorm(3, alpha=0.5), (2, 5, 3, 3)),
    "normalize": of(lambda x: F.normalize(x, dim=1), (3, 7)),
    "softmax": of(lambda x: F.softmax(x, 1), (3, 17)),
    "softmax of one class": of(lambda x: F.softmax(x, 1) + x, (3, 1)),
    "log softmax": of(lambda x: F.log_softmax(x, 0), (4, 5)),
    "attention": of(F.scaled_dot_product_attention, (2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
    "attention of one key": of(F.scaled_dot_product_attention, (1, 1, 1, 8), (1, 1, 1, 8), (1, 1, 1, 8)),
    "attention, masked": of(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.from_numpy(MASK)),
        (2, 3, 5, 8),
        (2, 3, 4, 8),
        (2, 3, 4, 8),
    ),
    "attention, several heads": layer(
        lambda: nn.MultiheadAttention(8, 2, batch_first=True), (2, 5, 8), (2, 5, 8), (2, 5, 8)
    ),
    "cross entropy": of(F.cross_entropy, (5, 4), given=(LABELS,)),
    "cross entropy of a batch of one": of(F.cross_entropy, (1, 4), given=(LABELS[:1],)),
    "cross entropy of pixels": of(F.cross_entropy, (2, 4, 3, 2), given=(np.arange(12).reshape(2, 3, 2) % 4,)),
    "cross entropy, sum": of(lambda x, y: F.cross_entropy(x, y, reduction="sum"), (5, 4), given=(LABELS,)),
    "cross entropy, each": of(lambda x, y: F.cross_entropy(x, y, reduction="none"), (5, 4), given=(LABELS,)),
    "cross entropy, ignored": of(lambda x, y: F.cross_entropy(x, y, ignore_index=2), (5, 4), given=(LABELS,)),
    "cross entropy, weights": of(
        lambda x, y, w: F.cross_entropy(x, y, w), (5, 4), given=(LABELS, np.float32([1, 2, 0.5, 3]))
    ),
    "negative log likelihood": of(lambda x, y: F.nll_loss(F.log_softmax(x, 1), y), (5, 4), given=(LABELS,)),
    "squared error": of(F.mse_loss, (3, 4), (3, 4)),
    "absolute error": of(lambda x, y: (x - y).abs().mean(), (3, 4), (3, 4)),
    "binary cross entropy": of(
        lambda x, y: F.binary_cross_entropy_with_logits(x, torch.sigmoid(y)), (3, 4), (3, 4)
    ),
    "Kullback-Leibler": of(
        lambda x, y: F.kl_div(F.log_softmax(x, 1), F.softmax(y, 1), reduction="batchmean"), (3, 4), (3, 4)
    ),
    "cosine similarity": of(lambda x, y: F.cosine_similarity(x, y), (3, 7), (3, 7)),
    "RNN": layer(lambda: nn.RNN(4, 5, batch_first=True), (2, 6, 4)),
    "LSTM": layer(lambda: nn.LSTM(4, 5, batch_first=True), (2, 6, 4)),
    "LSTM of two layers and directions": layer(lambda: nn.LSTM(3, 4, 2, bidirectional=True), (5, 2, 3)),
    "LSTM of one step": layer(lambda: nn.LSTM(3, 4), (1, 1, 3)),
    "GRU": layer(lambda: nn.GRU(4, 5, batch_first=True), (2, 6, 4)),
    "GRU backwards and forwards": layer(lambda: nn.GRU(3, 4, bidirectional=True), (5, 1, 3)),
    "embedding": layer(lambda: nn.Embedding(4, 5), given=(POSITIONS,)),
    "gather": of(lambda x, i: torch.gather(x, 1, i), (2, 4), given=(POSITIONS,)),
    "index": of(lambda x, i: x[:, i], (2, 4, 3), given=(POSITIONS[0],)),
    "scatter": of(lambda x, u, i: torch.scatter(x, 1, i, u), (2, 4), (2, 3), given=([[0, 3, 1], [3, 1, 2]],)),
    "scatter, added": of(lambda x, u, i: torch.scatter_add(x, 1, i, u), (2, 4), (2, 3), given=(POSITIONS,)),
    **{
        f"resize, {how}": of(lambda x, o=options: F.interpolate(x, **o), (1, 2, 4, 5))
        for how, options in {
            "nearest": {"scale_factor": 2, "mode": "nearest"},
            "nearest to odd sizes": {"size": (7, 3), "mode": "nearest"},
            "linear": {"scale_factor": 2, "mode": "bilinear"},
            "linear, corners": {"size": (7, 9), "mode": "bilinear", "align_corners": True},
            "linear to less": {"size": (3, 2), "mode": "bilinear"},
            "cubic": {"size": (9, 7), "mode": "bicubic"},
        }.items()
    },
    "pixel shuffle": layer(lambda: nn.PixelShuffle(2), (1, 8, 3, 2)),
    "pad": of(lambda x: F.pad(x, (1, 2, 0, 1), value=3.0), (2, 3, 4)),
    "pad, reflected": of(lambda x: F.pad(x, (2, 1, 1, 0), mode="reflect"), (1, 2, 4, 5)),
    "cumulative sum": of(lambda x: torch.cumsum(x, 1), (3, 5)),
    "top k": of(lambda x: torch.topk(x, 3, 1)[0], (3, 7)),
    "flip": of(lambda x: torch.flip(x, [1]), (3, 4)),
    "roll": of(lambda x: torch.roll(x, 2, 1), (3, 5)),
    "norm": of(lambda x: torch.linalg.vector_norm(x, dim=1), (3, 5)),
    "variance": of(lambda x: torch.var(x, 1), (3, 5)),
    "log of sums": of(lambda x: torch.logsumexp(x, 1), (3, 5)),
    "product": of(lambda x: torch.prod(x, 1), (3, 5)),
    "largest": of(lambda x: torch.amax(x, (0, 2)), (3, 4, 5)),
    "where": of(lambda x, y: torch.where(x > y, x * y, y), (3, 4), (1, 4)),
    **{
        f.__name__: of(f, (3, 5))
        for f in (
            F.relu,
            F.gelu,
            F.silu,
            F.elu,
            F.selu,
            F.softplus,
            F.mish,
            F.hardswish,
            F.hardsigmoid,
            F.leaky_relu,
            F.logsigmoid,
            F.tanhshrink,
            torch.sigmoid,
            torch.tanh,
            torch.exp,
            torch.abs,
            torch.sin,
            torch.erf,
        )
    },
    "gelu of tanh": of(lambda x: F.gelu(x, approximate="tanh"), (3, 5)),
    "prelu": layer(lambda: nn.PReLU(4), (2, 4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_torch(name: str, tmp_path: Path) -> None:
    case, random = LAYERS[name], np.random.default_rng(0)
    torch.manual_seed(0)
    module = case.make()
    weights = list(module.parameters())
    for weight in weights:  # some are made as 0 or 1
        nn.init.normal_(weight, std=0.5)
    made = [torch.from_numpy(random.standard_normal(s, np.float32)).requires_grad_() for s in case.shapes]
    inputs = [*made, *map(torch.from_numpy, case.given)]
    path = exported(module, inputs, tmp_path)
    y = module(*inputs)
    while isinstance(y, tuple):  # of a recurrent network: what it says at each step
        y = y[0]
    seed = np.asarray(random.standard_normal(y.shape), np.float32)
    wanted = torch.autograd.grad(
        y, [*made, *weights], torch.from_numpy(seed), allow_unused=True, materialize_grads=True
    )
    running = [t for t in module.buffers() if t.is_floating_point()]
    arrays = [t.detach().numpy() for t in (*inputs, *weights, *running)]
    places = [*range(len(made)), *range(len(inputs), len(inputs) + len(weights))]
    gradient = mdsl.grad(path, places, seed="argument")
    for engine, settings in ENGINES.items():
        answer, *found = mdsl.compile(gradient, **settings)(*arrays, seed)
        for got, other in zip([answer, *found[-len(wanted) :]], [y.detach(), *wanted], strict=True):
            scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
            np.testing.assert_allclose(got, other.numpy(), rtol=0, atol=1e-4 * scale, err_msg=engine)
