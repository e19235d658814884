"""The networks that are measured, a row each: what builds them, how they are compiled, what they must reach.

A section of `python -m bench` is the rows that name it; `bench.commits` goes through them too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from onnx import ModelProto, load, load_from_string

from bench import onnx_mlp
from bench.models.attention import minilm, swin
from bench.models.encoder import encoder
from bench.models.half import halved
from bench.models.light import light
from bench.models.mixing import conv_gelu, convnext, mixer, product, resize
from bench.models.mobile import mobilenet_v2, mobilenet_v4
from bench.models.recurrent import head
from bench.models.yolo import yolo

BEST = ("onnxruntime", "openvino")
"""The two that a network's time is compared with the better of."""

_folder = tempfile.TemporaryDirectory(prefix="mdsl-bench-")
_numbers = count()


@dataclass(frozen=True)
class Network:
    """`section` is where it is measured, `title` its name in figures. `bounds` are what its time may be of the better
    peer's, on one thread and on two, None for information; `memory` the same for its peak memory against onnxruntime's,
    `load` for the time to the first result of what was compiled before."""

    section: str
    title: str
    build: Callable[[], ModelProto]
    bounds: tuple[float | None, float | None] = (None, None)
    settings: dict[str, Any] = field(default_factory=dict)
    single: Callable[[], ModelProto] | None = None
    """What a network in f16 is made of."""
    memory: float | None = None
    load: float | None = None

    def file(self) -> str:
        """The path of the network as an .onnx file, written once a run."""
        return written(self.build)


def of_section(name: str) -> list[Network]:
    return [network for network in NETWORKS.values() if network.section == name]


@cache
def written(build: Callable[[], ModelProto]) -> str:
    """The path of what `build` makes, as a file that is written once a run."""
    path = Path(_folder.name) / f"{next(_numbers)}.onnx"
    path.write_bytes(build().SerializeToString())
    return str(path)


def _mlp() -> ModelProto:
    return load_from_string(onnx_mlp.model())


def _in_half(title: str, single: Callable[[], ModelProto]) -> Network:
    return Network("half", f"{title}, f16", lambda: halved(single()), (1.0, 1.0), single=single)


def _detector() -> ModelProto:
    """The trained detector of the package ddddocr, which is not imported."""
    found = find_spec("ddddocr")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("not installed: ddddocr")
    return load(Path(found.origin).parent / "common_det.onnx")


resnet50, squeezenet = partial(light, "resnet50"), partial(light, "squeezenet")

NETWORKS: dict[str, Network] = {
    "resnet": Network("resnet", "ResNet-50 224x224", resnet50, (0.75, 0.75), memory=1.0, load=1.0),
    "resnet-plain": Network(
        "resnet", "ResNet-50 224x224, --no-winograd", resnet50, (0.95, 0.95), {"winograd": False}
    ),
    "resnet28": Network(
        "resnet28", "ResNet-50 28x28x1", partial(light, "resnet50", 28, channels=1), (0.95, 0.95)
    ),
    "resnet64": Network("resnet64", "ResNet-50 64x64", partial(light, "resnet50", 64)),
    "keras28": Network("keras", "ResNet-50 28x28", partial(light, "resnet50", 28)),
    "encoder": Network("encoder", "transformer encoder", encoder, (0.85, 0.80), load=1.0),
    "mlp": Network("mlp", "MLP 784-512-512-10", _mlp, (0.80, 0.70)),
    "mobile": Network("mobile", "MobileNetV2 224x224", mobilenet_v2, (0.85, 0.85), load=1.0),
    "squeezenet": Network("mobile", "SqueezeNet 224x224", squeezenet, (0.75, 0.75)),
    "densenet": Network(
        "mobile", "DenseNet-121 224x224", partial(light, "densenet121"), (0.75, 0.75), load=1.0
    ),
    "shufflenet": Network("mobile", "ShuffleNet 224x224", partial(light, "shufflenet"), (0.95, 0.95)),
    "mobilenet-v4": Network("mobile", "MobileNetV4-S 224x224", mobilenet_v4, (0.90, 0.90)),
    "convnext": Network("mixing", "ConvNeXt-like 224x224", convnext, (0.90, 0.90)),
    "mixer": Network("mixing", "Mixer-S/32-like 224x224", mixer, (0.90, 0.90)),
    "conv-gelu": Network("mixing", "1x1 convolution 384 to 1536 on 14x14, GELU", conv_gelu, (0.90, 0.90)),
    "conv-gelu56": Network(
        "mixing", "1x1 convolution 96 to 384 on 56x56, GELU", partial(conv_gelu, 56, 96, 384), (0.90, 0.90)
    ),
    "product": Network("mixing", "product 49x2048 by 2048x512", product, (0.90, 0.90)),
    "swin": Network("attention", "Swin-like 224x224", swin, (0.90, 0.90)),
    "minilm": Network("attention", "MiniLM-like, 128 tokens", minilm, (0.90, 0.90), load=1.0),
    "lstm": Network("recurrent", "LSTM head, 64 steps", partial(head, "LSTM"), (0.90, 0.90)),
    "gru": Network("recurrent", "GRU head, 64 steps", partial(head, "GRU"), (0.90, 0.90)),
    "resize": Network("resize", "Resize linear x2, 64x56x56", resize, (1.0, 1.0)),
    "resnet-half": _in_half("ResNet-50 224x224", resnet50),
    "squeezenet-half": _in_half("SqueezeNet 224x224", squeezenet),
    "encoder-half": _in_half("transformer encoder", encoder),
    "yolo416": Network("detectors", "YOLO-like 416x416", partial(yolo, 416), memory=1.0),
    "yolo640": Network("detectors", "YOLO-like 640x640", partial(yolo, 640), memory=1.0, load=1.0),
    "ddddocr": Network("detectors", "ddddocr's detector 416x416", _detector, memory=1.0),
}
