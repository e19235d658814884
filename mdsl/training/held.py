"""Arrays that a run holds: those of a step's program may lie in blocks between its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

import numpy as np

from mdsl.bytecode.module import Layout


class Held(MutableMapping[str, np.ndarray]):
    """Plain arrays by name. Those that a program keeps in blocks are brought there when a step takes them, and stay there
    until somebody else asks for them: what one step hands on to the next is not moved."""

    def __init__(self, layouts: Mapping[str, Layout], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """`layouts` by name, and the `shapes` of what lies in them."""
        self._layouts, self._shapes = layouts, shapes
        self._arrays: dict[str, np.ndarray] = {}
        self._in_blocks: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._in_blocks:
            self[name] = self._layouts[name].plain(self._arrays[name])
        return self._arrays[name]

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self._arrays[name] = array
        self._in_blocks.discard(name)

    def __delitem__(self, name: str) -> None:
        del self._arrays[name]
        self._in_blocks.discard(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def take(self, name: str) -> np.ndarray:
        """The array as the step's program takes it."""
        if name in self._layouts and name not in self._in_blocks:
            self.put(name, self._layouts[name].blocked(self._arrays[name], self._shapes[name]))
        return self._arrays[name]

    def put(self, name: str, array: np.ndarray) -> None:
        """Holds an array as the step's program gives it."""
        self._arrays[name] = array
        if name in self._layouts:
            self._in_blocks.add(name)
