"""nn: a network as a person writes it, a graph of operations on whole tensors.

All ops have the uniform form, `%y = nn.softmax %x {axis = 1} : (tensor<3x17xf32>) -> tensor<3x17xf32>`, and
none has effects. Each infers its result type; a written one that differs is an error. Floats are f32, f64,
f16 and bf16; results are those of exact arithmetic rounded once, up to the rounding inside sums.
The declarations lie by theme in elementwise.py, functions.py, layers.py, data.py, order.py, training.py and dynamic.py.
"""

from mdsl.dialects.nn.data import (
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
from mdsl.dialects.nn.dynamic import (
    DynamicBroadcast,
    DynamicPad,
    DynamicReshape,
    DynamicSlice,
    DynamicTile,
    Range,
    Shape,
)
from mdsl.dialects.nn.elementwise import (
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
from mdsl.dialects.nn.functions import (
    Acos,
    Acosh,
    And,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Ceil,
    Cos,
    Cosh,
    Expm1,
    Floor,
    Log1p,
    Mod,
    Or,
    Round,
    ShiftLeft,
    ShiftRight,
    Sign,
    Sin,
    Sinh,
    Tan,
    Xor,
)
from mdsl.dialects.nn.layers import (
    ArgMaxPool2d,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    GlobalAvgPool,
    LayerNorm,
    Linear,
    LogSoftmax,
    Matmul,
    MaxPool2d,
    MaxPool2dGrad,
    Softmax,
)
from mdsl.dialects.nn.order import ArgSort, Scatter
from mdsl.dialects.nn.training import BatchNormTrain, Bce, CrossEntropy, Dropout, Mse, RandomUniform

__all__ = [
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMaxPool2d", "ArgSort", "Asin", "Asinh", "Atan", "Atanh",
    "AvgPool2d", "BatchNorm", "BatchNormTrain", "Bce", "Broadcast", "Cast", "Ceil", "Clip", "Compare",
    "Concat", "Conv2d", "Cos", "Cosh", "CrossEntropy", "Div", "Dropout", "DynamicBroadcast", "DynamicPad",
    "DynamicReshape", "DynamicSlice", "DynamicTile", "Erf", "Exp", "Expm1", "Flatten", "Floor", "Gather",
    "Gelu", "GlobalAvgPool", "LayerNorm", "LeakyRelu", "Linear", "Log", "Log1p", "LogSoftmax", "Matmul",
    "MaxPool2d", "MaxPool2dGrad", "Maximum", "Minimum", "Mod", "Mse", "Mul", "Neg", "Or", "Pad", "Pow", "RandomUniform",
    "Range", "Reduce", "Relu", "Reshape", "Round", "Scatter", "Select", "Shape", "ShiftLeft", "ShiftRight",
    "Sigmoid", "Sign", "Sin", "Sinh", "Slice", "Softmax", "Sqrt", "Sub", "Tan", "Tanh", "Transpose", "Xor",
]  # fmt: skip
