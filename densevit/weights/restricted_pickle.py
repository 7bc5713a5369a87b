"""An unpickler that calls and modifies only objects that it created.

Python's unpickler sets attributes of any object that a file reaches (BUILD), calls it (REDUCE, NEWOBJ, INST, OBJ) and
adds items to it (APPEND, SETITEM): with an allow-list of classes alone, a file can modify these classes.
"""

import pickle
from collections.abc import Collection, Iterable
from typing import Any, ClassVar

_LARGEST_KEY = 1000  # values in a tuple that is a key: hashes of deeply nested ones crash Python


class Inert(dict[Any, Any]):
    """Placeholder for an object, in a subclass with its name. Keeps the items of a dict; all else is dropped."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a dict key


class RestrictedUnpickler(pickle._Unpickler):  # the Python one: the C one allocates memory for any memo index
    """Calls placeholders and the given functions, and adds items to dicts, lists and sets. State is dropped.

    functions: which may be called, of those that a subclass's `find_class` returns.
    """

    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)
    functions: Collection[Any] = ()
    stack: list[Any]
    append: Any
    pop_mark: Any
    read: Any

    # ---- opcodes that call a function ----

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self._called(function, () if keywords else arguments))

    def _instantiate(self, function: Any, arguments: Any) -> None:  # of INST and OBJ
        self.append(self._called(function, arguments))

    def _called(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, type) and issubclass(function, Inert):
            return function()
        if isinstance(function, Inert):
            return Inert()
        if any(function is allowed for allowed in self.functions):
            return function(*arguments)
        raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"the extension code {code}, which other files lack")

    # ---- opcodes that change an object ----

    def load_build(self) -> None:
        self.stack.pop()  # state is dropped

    def load_append(self) -> None:
        item = self.stack.pop()
        _extend(self.stack[-1], [item])

    def load_appends(self) -> None:
        items = self.pop_mark()
        _extend(self.stack[-1], items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        _extend(self.stack[-1], items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        update(self.stack[-1], [(key, value)])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        update(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    # ---- opcodes that make an object ----

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(update({}, zip(items[::2], items[1::2], strict=True)))

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # before `append`, which becomes that of another stack
        self.append(frozenset(map(_key, items)))

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))  # pickle allocates it before it reads

    for _opcode, _load in {
        pickle.REDUCE: load_reduce,
        pickle.NEWOBJ: load_reduce,  # the same: nothing is created without a call
        pickle.NEWOBJ_EX: load_newobj_ex,
        pickle.BUILD: load_build,
        pickle.APPEND: load_append,
        pickle.APPENDS: load_appends,
        pickle.ADDITEMS: load_additems,
        pickle.SETITEM: load_setitem,
        pickle.SETITEMS: load_setitems,
        pickle.DICT: load_dict,
        pickle.FROZENSET: load_frozenset,
        pickle.BYTEARRAY8: load_bytearray8,
    }.items():
        dispatch[_opcode[0]] = _load


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(map(_key, items))
    elif not isinstance(target, Inert):
        raise pickle.UnpicklingError(f"items for a {type(target).__name__}")


def update(target: Any, items: Iterable[tuple[Any, Any]]) -> Any:
    """Sets items of a dict, and returns it. Raises UnpicklingError for another target, and for an unsafe key."""
    if not isinstance(target, dict):
        raise pickle.UnpicklingError(f"items for a {type(target).__name__}")
    for key, value in items:
        target[_key(key)] = value
    return target


def _key(value: Any) -> Any:
    """A value as a key. Raises UnpicklingError for one whose hash takes too long or nests too deeply."""
    inside, left = [value], _LARGEST_KEY
    while inside:
        item = inside.pop()
        left -= 1
        if isinstance(item, tuple):
            left -= len(item)
            inside += item[:_LARGEST_KEY]
        if left < 0:
            raise pickle.UnpicklingError(f"a key of over {_LARGEST_KEY} values")
    return value


def placeholder(module: str, name: str) -> type[Inert]:
    """A class of this name without anything in it."""
    return type(name, (Inert,), {"__module__": module, "__qualname__": name})
