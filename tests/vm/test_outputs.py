"""Memory of outputs is used again only when nothing can see it any more."""

from __future__ import annotations

import numpy as np

from mdsl.vm.memory import OutputPool, aligned, aligned_array

SHAPE, DTYPE = (128, 128), np.dtype(np.float32)


def test_memory_comes_back_when_the_array_is_gone() -> None:
    pool = OutputPool(SHAPE, DTYPE)
    first = pool.take()
    place = first.ctypes.data
    assert pool.take().ctypes.data != place
    del first
    assert pool.take().ctypes.data == place


def test_a_view_keeps_the_memory() -> None:
    pool = OutputPool(SHAPE, DTYPE)
    whole = pool.take()
    whole[...] = 7
    part = whole[3:5].T
    place = whole.ctypes.data
    del whole
    others = [pool.take() for _ in range(8)]
    assert place not in [other.ctypes.data for other in others]
    for other in others:
        other[...] = 0
    assert (part == 7).all()


def test_arrays_are_plain_writable_and_aligned() -> None:
    for shape in (SHAPE, (3,)):
        array = OutputPool(shape, DTYPE).take()
        assert type(array) is np.ndarray and array.shape == shape and array.dtype == DTYPE
        assert array.flags.writeable and array.flags.c_contiguous
    assert OutputPool(SHAPE, DTYPE).take().ctypes.data % 64 == 0


def test_only_few_blocks_are_kept() -> None:
    pool = OutputPool(SHAPE, DTYPE)
    arrays = [pool.take() for _ in range(3 * OutputPool.KEPT)]
    del arrays
    assert len(pool._free) == OutputPool.KEPT


def test_nobody_else_has_the_memory_that_came_back() -> None:
    pool = OutputPool(SHAPE, DTYPE)
    arrays = [pool.take() for _ in range(3)]
    del arrays
    again = [pool.take() for _ in range(3)]
    assert len({array.ctypes.data for array in again}) == 3


def test_what_a_program_leaves_as_it_is_is_zero() -> None:
    for shape in (SHAPE, (500,)):
        pool = OutputPool(shape, DTYPE, cleared=True)
        for _ in range(8):
            np.full(shape, 7, DTYPE)  # whose memory NumPy gives to who asks next
            array = pool.take()
            assert not array.any()
            array[...] = 7
            del array


def test_arguments_are_copied_only_where_they_lie_otherwise() -> None:
    sound = aligned(256).view(np.float32).reshape(8, 8)
    assert aligned_array(sound) is sound
    shifted = aligned(260)[4:].view(np.float32).reshape(8, 8)
    shifted[...] = np.arange(64).reshape(8, 8)
    for other in (shifted, sound.T, sound[:, ::2], sound[::-1]):
        copy = aligned_array(other)
        assert copy is not other and copy.flags.c_contiguous and copy.ctypes.data % 64 == 0
        np.testing.assert_array_equal(copy, other)
