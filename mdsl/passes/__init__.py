"""IR -> IR, one file a pass. `PASSES` is the registry, in pipeline order."""

from mdsl.passes.base import Pass
from mdsl.passes.bufferize import Bufferize
from mdsl.passes.canonicalize import Canonicalize
from mdsl.passes.fold_batchnorm import FoldBatchnorm
from mdsl.passes.fuse import Fuse
from mdsl.passes.inline import Inline
from mdsl.passes.lower_linalg_to_loops import LowerLinalgToLoops
from mdsl.passes.lower_nn import LowerNn
from mdsl.passes.lower_vm import LowerVm
from mdsl.passes.outline_ukernels import OutlineUkernels
from mdsl.passes.pack import Pack
from mdsl.passes.plan_memory import PlanMemory
from mdsl.passes.tile import Tile
from mdsl.passes.unroll import Unroll
from mdsl.passes.unroll_dispatch import UnrollDispatch
from mdsl.passes.vectorize import Vectorize

PASSES: tuple[type[Pass], ...] = (
    Inline,
    Canonicalize,
    FoldBatchnorm,
    LowerNn,
    Pack,
    Fuse,
    Tile,
    OutlineUkernels,
    Bufferize,
    PlanMemory,
    Vectorize,
    LowerLinalgToLoops,
    Unroll,
    UnrollDispatch,
    LowerVm,
)
