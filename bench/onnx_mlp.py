"""The MNIST MLP as an ONNX model, with the weights of the example: `python -m bench.onnx_mlp mlp.onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from mdsl.cli.errors import shown
from mdsl.frontends.onnx.model import require_onnx
from mdsl.support.files import replacing

EXAMPLE = Path(__file__).parent.parent / "examples" / "mnist" / "mlp.mir"


def model() -> bytes:
    """The model as the bytes of an .onnx file."""
    from onnx import TensorProto, helper, numpy_helper

    from mdsl.syntax.resources import load_weights

    weights = load_weights(EXAMPLE.with_suffix(".safetensors"))
    constants = {"mean": np.float32(0.130660), "deviation": np.float32(0.308108), **weights}
    nodes = [
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["hidden0"]),
    ]
    for layer in (1, 2, 3):
        operands = [f"hidden{layer - 1}", f"fc{layer}_weight", f"fc{layer}_bias"]
        nodes.append(helper.make_node("Gemm", operands, [f"sum{layer}"], transB=1))
        nodes.append(helper.make_node("Relu", [f"sum{layer}"], [f"hidden{layer}"]))
    nodes[-1] = helper.make_node("Softmax", ["sum3"], ["probabilities"], axis=1)
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 784])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def main(output: Annotated[Path, typer.Argument(help="The .onnx file to write.")]) -> None:
    """Write the MNIST MLP of examples/ as an ONNX model."""
    with shown():
        require_onnx()
        with replacing(output) as file:
            file.write(model())


if __name__ == "__main__":
    typer.run(main)
