"""nn: a network as a person writes it, a graph of operations on whole tensors.

All ops have the uniform form, `%y = nn.softmax %x {axis = 1} : (tensor<3x17xf32>) -> tensor<3x17xf32>`, and
none has effects. Each infers its result type; a written one that differs is an error. Floats are f32, f64,
f16 and bf16; results are those of exact arithmetic rounded once, up to the rounding inside sums.
The declarations lie by theme in nn_elementwise.py, nn_layers.py and nn_data.py.
"""

from mdsl.dialects.nn_data import (
    ArgMax,
    Broadcast,
    Concat,
    Flatten,
    Gather,
    Pad,
    Reduce,
    Reshape,
    Slice,
    Transpose,
)
from mdsl.dialects.nn_elementwise import (
    Abs,
    Add,
    Cast,
    Clip,
    Compare,
    Div,
    Erf,
    Exp,
    Gelu,
    LeakyRelu,
    Log,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Relu,
    Select,
    Sigmoid,
    Sqrt,
    Sub,
    Tanh,
)
from mdsl.dialects.nn_layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    GlobalAvgPool,
    LayerNorm,
    Linear,
    LogSoftmax,
    Matmul,
    MaxPool2d,
    Softmax,
)

__all__ = [
    "Abs", "Add", "ArgMax", "AvgPool2d", "BatchNorm", "Broadcast", "Cast", "Clip", "Compare", "Concat",
    "Conv2d", "Div", "Erf", "Exp", "Flatten", "Gather", "Gelu", "GlobalAvgPool", "LayerNorm", "LeakyRelu",
    "Linear", "Log", "LogSoftmax", "Matmul", "MaxPool2d", "Maximum", "Minimum", "Mul", "Neg", "Pad", "Pow",
    "Reduce", "Relu", "Reshape", "Select", "Sigmoid", "Slice", "Softmax", "Sqrt", "Sub", "Tanh", "Transpose",
]  # fmt: skip
