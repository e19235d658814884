"""IR -> IR, one file a pass. `PASSES` is the registry, in pipeline order."""

from mdsl.passes.any.box_scalars import BoxScalars
from mdsl.passes.any.canonicalize import Canonicalize
from mdsl.passes.any.inline import Inline
from mdsl.passes.base import Pass
from mdsl.passes.buffers.lower_linalg_to_loops import LowerLinalgToLoops
from mdsl.passes.buffers.plan_memory import PlanMemory
from mdsl.passes.buffers.vectorize import Vectorize
from mdsl.passes.dispatch.bufferize import Bufferize
from mdsl.passes.kernels.lower_vm import LowerVm
from mdsl.passes.kernels.unroll import Unroll
from mdsl.passes.kernels.unroll_dispatch import UnrollDispatch
from mdsl.passes.linalg.flatten_conv import FlattenConv
from mdsl.passes.linalg.fold_shapes import FoldShapes
from mdsl.passes.linalg.fuse import Fuse
from mdsl.passes.linalg.fuse_attention import FuseAttention
from mdsl.passes.linalg.fuse_rows import FuseRows
from mdsl.passes.linalg.pack import Pack
from mdsl.passes.linalg.tile import Tile
from mdsl.passes.linalg.tune import Tune
from mdsl.passes.linalg.winograd import Winograd
from mdsl.passes.nn.bind import Bind
from mdsl.passes.nn.fold_batchnorm import FoldBatchnorm
from mdsl.passes.nn.lower_nn import LowerNn
from mdsl.passes.tiled.outline_ukernels import OutlineUkernels
from mdsl.passes.tiled.prepack import Prepack

PASSES: tuple[type[Pass], ...] = (
    Inline,
    Bind,
    BoxScalars,
    Canonicalize,
    FoldBatchnorm,
    LowerNn,
    FoldShapes,
    FuseAttention,
    FuseRows,
    Pack,
    FlattenConv,
    Fuse,
    Winograd,
    Tune,
    Tile,
    Prepack,
    OutlineUkernels,
    Bufferize,
    PlanMemory,
    Vectorize,
    LowerLinalgToLoops,
    Unroll,
    UnrollDispatch,
    LowerVm,
)
