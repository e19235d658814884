"""IR -> IR, one file a pass. `PASSES` is the registry, in pipeline order."""

from mdsl.passes.base import Pass
from mdsl.passes.bind import Bind
from mdsl.passes.box_scalars import BoxScalars
from mdsl.passes.bufferize import Bufferize
from mdsl.passes.canonicalize import Canonicalize
from mdsl.passes.flatten_conv import FlattenConv
from mdsl.passes.fold_batchnorm import FoldBatchnorm
from mdsl.passes.fold_shapes import FoldShapes
from mdsl.passes.fuse import Fuse
from mdsl.passes.fuse_attention import FuseAttention
from mdsl.passes.fuse_rows import FuseRows
from mdsl.passes.inline import Inline
from mdsl.passes.lower_linalg_to_loops import LowerLinalgToLoops
from mdsl.passes.lower_nn import LowerNn
from mdsl.passes.lower_vm import LowerVm
from mdsl.passes.outline_ukernels import OutlineUkernels
from mdsl.passes.pack import Pack
from mdsl.passes.plan_memory import PlanMemory
from mdsl.passes.prepack import Prepack
from mdsl.passes.tile import Tile
from mdsl.passes.tune import Tune
from mdsl.passes.unroll import Unroll
from mdsl.passes.unroll_dispatch import UnrollDispatch
from mdsl.passes.vectorize import Vectorize
from mdsl.passes.winograd import Winograd

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
