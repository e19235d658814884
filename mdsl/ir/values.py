"""Values: what operations compute and blocks are given, each with a name and its users."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from mdsl.ir.types import Type

if TYPE_CHECKING:
    from mdsl.ir.core import Block, Op

_serials = count()


def next_serial() -> int:
    """A number above those of all values there are, and below those of all to come."""
    return next(_serials)


class Value:
    """An SSA value: a type, a name (None until it is printed) and the operations that use it."""

    __slots__ = ("name", "serial", "type", "users")

    def __init__(self, type: Type, name: str | None = None) -> None:
        self.type = type
        self.name = name
        self.serial = next(_serials)
        self.users: dict[Op, None] = {}

    def replace_by(self, new: Value) -> None:
        """Lets every user read `new` instead; `new` inherits the name if it has none of its own."""
        if self is new:
            return
        for user in list(self.users):
            user.replace_operand(self, new)
        if new.name is None:
            new.name, new.serial = self.name, self.serial

    @property
    def owner(self) -> Op | Block:
        """The operation or the block that defines the value."""
        raise AssertionError


class OpResult(Value):
    """Result number `index` of the operation `op`."""

    __slots__ = ("index", "op")

    def __init__(self, type: Type, op: Op, index: int, name: str | None = None) -> None:
        super().__init__(type, name)
        self.op = op
        self.index = index

    @property
    def owner(self) -> Op | Block:
        return self.op


class BlockArgument(Value):
    """Argument number `index` of `block`."""

    __slots__ = ("block", "index")

    def __init__(self, type: Type, block: Block, index: int, name: str | None = None) -> None:
        super().__init__(type, name)
        self.block = block
        self.index = index

    @property
    def owner(self) -> Op | Block:
        return self.block
