"""nn: a network as a person writes it, a graph of operations on whole tensors.

All ops have the uniform form, `%y = nn.softmax %x {axis = 1} : (tensor<3x17xf32>) -> tensor<3x17xf32>`, and
none has effects. Each infers its result type; a written one that differs is an error. Floats are f32, f64,
f16 and bf16; results are those of exact arithmetic rounded once, up to the rounding inside sums.
The declarations lie by theme in files of their own; in Python each op is an attribute of the package, `nn.Relu`.
"""

from mdsl.dialects.nn.data import *
from mdsl.dialects.nn.dynamic import *
from mdsl.dialects.nn.elementwise import *
from mdsl.dialects.nn.functions import *
from mdsl.dialects.nn.layers import *
from mdsl.dialects.nn.order import *
from mdsl.dialects.nn.training import *
