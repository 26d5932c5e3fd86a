"""Reads pickles as data: nothing that a file names is imported, called or filled.

The interpreter below knows the opcodes of the pickle machine (Python's pickletools documents each) and makes plain
containers, numbers and text from them. A file may name only what its reader admits, and gets for it what the reader
says: a value, or a Call, which the file may apply to its arguments. numpy's arrays are made from their bytes,
never by numpy's own reconstruction, which trusts the file. Python's unpickler, torch's safe one included, can be
crashed by deep nesting and made to allocate gigabytes by a few bytes.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # names of Python 2, in protocols up to 2
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

MAX_DEPTH = 100  # containers in containers; the deepest real file (settings of fairseq) has about 20
SPARE_BYTES = 2**20  # what small files may unfold to beside a multiple of their size
COPIES = 3  # arrays of a file are copied out of it once; what is asked for beyond is a bomb


class RefusedName(ValueError):
    """The file names something that its reader does not admit; the message is the name."""


class BrokenPickle(ValueError):
    """The bytes are no pickle, or one that no program of good will writes."""


Admit = Callable[[str], Any]  # "module.attribute" -> what the file gets for it; raises KeyError to refuse it


def refuse(name: str) -> Any:
    """Admits nothing."""
    raise KeyError(name)


@dataclass(frozen=True, eq=False)
class Call:
    """What a file may call by the name that it was admitted under."""

    apply: Callable[..., Any]


class Unfinished:
    """Made by a call, and completed by the state that the file gives it afterwards (the opcode BUILD)."""

    def finish(self, state: Any) -> Any:
        """What takes its place."""
        raise NotImplementedError


@dataclass
class Budget:
    """Bytes that calls of one file may still allocate."""

    left: int

    @classmethod
    def of(cls, size: int) -> Budget:
        """What a file of ``size`` bytes is granted."""
        return cls(COPIES * size + SPARE_BYTES)

    def take(self, size: int) -> None:
        """Raises BrokenPickle where it is used up."""
        self.left -= size
        if self.left < 0:
            raise BrokenPickle("it unfolds to more than it holds")


def loads(data: bytes, admit: Admit = refuse) -> Any:
    """The value of a pickle in memory, with numpy's arrays and scalars among its values.

    Args:
        admit: what the file may name besides.

    Raises:
        RefusedName: it names something else.
        BrokenPickle: it is broken, nests too deep, or unfolds to much more than its size.
    """
    return load(io.BytesIO(data), numbers_and(admit, Budget.of(len(data))))


def load(file: IO[bytes], admit: Admit, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The value of the pickle that begins where ``file`` stands; it is left standing behind it.

    Args:
        admit: all that the file may name.
        persistent: makes what the file calls by an id of its own (the storages of torch).

    Raises:
        RefusedName, BrokenPickle: as ``loads``.
    """
    machine = _Machine(admit, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.step(opcode.name, argument)
        value = machine.pop()
    except (RefusedName, BrokenPickle):
        raise
    except Exception as error:  # rubbish can trip the decoding of an opcode in any way
        raise BrokenPickle(f"{type(error).__name__}: {error}") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level, seen = [value], {id(value)}
    for _ in range(MAX_DEPTH):
        below = []
        for item in level:
            for part in _parts(item):
                if id(part) not in seen:
                    seen.add(id(part))
                    below.append(part)
        if not below:
            return
        level = below
    raise BrokenPickle("it nests its contents without end")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return list(vars(value).values()) if isinstance(value, Unfinished) else []


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_NOTHING_TO_DO = {"PROTO", "FRAME", "STOP"}


class _Machine:
    """The stack machine of the pickle protocols 0 to 5."""

    def __init__(self, admit: Admit, persistent: Callable[[Any], Any] | None) -> None:
        self.admit, self.persistent = admit, persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.memo_of: dict[int, int] = {}  # id of an unfinished object -> where the memo keeps it

    def step(self, name: str, argument: Any) -> None:
        """Do one opcode."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _PUTS:
            self._remember(int(argument))
        elif name in _GETS:
            self.stack.append(self.memo[int(argument)])
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _SHORT_TUPLES:
            items = [self.pop() for _ in range(_SHORT_TUPLES[name])]
            self.stack.append(tuple(reversed(items)))
        elif name not in _NOTHING_TO_DO:
            method = getattr(self, f"_do_{name.lower()}", None)
            if method is None:
                raise BrokenPickle(f"opcode {name}")
            method(argument)

    def pop(self) -> Any:
        """The top of the stack."""
        return self.stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _remember(self, key: int) -> None:
        value = self.memo[key] = self.stack[-1]
        if isinstance(value, Unfinished):
            self.memo_of[id(value)] = key

    def _do_memoize(self, _: None) -> None:
        self._remember(len(self.memo))

    def _do_mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def _do_pop(self, _: None) -> None:
        if self.stack:
            self.pop()
        else:
            self._pop_to_mark()

    def _do_pop_mark(self, _: None) -> None:
        self._pop_to_mark()

    def _do_dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _do_tuple(self, _: None) -> None:
        self._push(tuple(self._pop_to_mark()))

    def _do_list(self, _: None) -> None:
        self._push(self._pop_to_mark())

    def _do_dict(self, _: None) -> None:
        items = self._pop_to_mark()
        self._push({})
        self._set(items)

    def _do_frozenset(self, _: None) -> None:
        self._push(frozenset(map(_key, self._pop_to_mark())))

    def _do_append(self, _: None) -> None:
        value = self.pop()
        self._top(list).append(value)

    def _do_appends(self, _: None) -> None:
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def _do_additems(self, _: None) -> None:
        items = self._pop_to_mark()
        self._top(set).update(map(_key, items))

    def _do_setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _do_setitems(self, _: None) -> None:
        self._set(self._pop_to_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _do_global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        self._push_name(module, attribute)

    def _do_stack_global(self, _: None) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise BrokenPickle("a name that is no text")
        self._push_name(module, attribute)

    def _push_name(self, module: str, attribute: str) -> None:
        module, attribute = NAME_MAPPING.get((module, attribute), (module, attribute))
        name = f"{IMPORT_MAPPING.get(module, module)}.{attribute}".replace("numpy.core.", "numpy._core.")
        try:
            self._push(self.admit(name))
        except KeyError:
            raise RefusedName(name) from None

    def _do_reduce(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        self._call(function, arguments)

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _: None) -> None:
        keywords, arguments, function = self.pop(), self.pop(), self.pop()
        if keywords:
            raise BrokenPickle("a call with keywords")
        self._call(function, arguments)

    def _do_obj(self, _: None) -> None:
        function, *arguments = self._pop_to_mark()
        self._call(function, tuple(arguments))

    def _do_inst(self, name: str) -> None:
        arguments = tuple(self._pop_to_mark())
        self._do_global(name)
        self._call(self.pop(), arguments)

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise BrokenPickle("a call of something that is no function")
        self._push(function.apply(*arguments))

    def _do_build(self, _: None) -> None:
        state, target = self.pop(), self._top(object)
        if isinstance(target, Unfinished):
            finished = self.stack[-1] = target.finish(state)
            if id(target) in self.memo_of:
                self.memo[self.memo_of[id(target)]] = finished
        elif not isinstance(target, dict):  # the attributes of an OrderedDict say nothing of its content
            raise BrokenPickle("a state for something that takes none")

    def _do_persid(self, argument: str) -> None:
        self._push_persistent(argument)

    def _do_binpersid(self, _: None) -> None:
        self._push_persistent(self.pop())

    def _push_persistent(self, key: Any) -> None:
        if self.persistent is None:
            raise BrokenPickle("it refers to something outside itself")
        self._push(self.persistent(key))

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _top(self, kind: type[Any]) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise BrokenPickle(f"items for something that is no {kind.__name__}")
        return self.stack[-1]


def _key(value: Any) -> Hashable:
    """A key of a dict or set: hashing a nested tuple recurses in C without a limit."""
    simple = (str, bytes, int, float, complex, type(None), Call, Unfinished)
    if isinstance(value, simple) or (isinstance(value, tuple) and all(isinstance(item, simple) for item in value)):
        return value
    raise BrokenPickle(f"a key of type {type(value).__name__}")


# --- numpy's arrays and scalars


@dataclass(eq=False)
class _Dtype(Unfinished):
    """A number format in the words of a file: the code, and the byte order that its state says."""

    code: str
    order: str = "|"

    CODE = re.compile(r"[<>=|]?([?bBhHiIlLqQefdFD]|[iu][1248]|f[248]|c(8|16)|b1|O8?)")

    def finish(self, state: Any) -> _Dtype:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
            raise BrokenPickle("a number format that is none")
        if state[2] is not None or state[3] is not None or state[4] is not None:
            raise BrokenPickle("a number format with fields")
        return _Dtype(self.code, state[1])

    @property
    def is_object(self) -> bool:
        return "O" in self.code

    def numpy(self) -> np.dtype[Any]:
        dtype = np.dtype(self.code)
        return dtype.newbyteorder(">") if self.order == ">" else dtype


def _dtype(code: Any, *_align_and_copy: Any) -> _Dtype:
    if not isinstance(code, str) or not _Dtype.CODE.fullmatch(code):
        raise BrokenPickle(f"an array of {code!r}")
    return _Dtype(code)


@dataclass(eq=False)
class _Array(Unfinished):
    """An array before the file says its shape, format and bytes."""

    budget: Budget
    content: Any = field(default=None, init=False)

    def finish(self, state: Any) -> np.ndarray:
        if not isinstance(state, tuple) or len(state) != 5:
            raise BrokenPickle("an array without content")
        _, shape, dtype, fortran, content = state
        return _make_array(content, dtype, shape, "F" if fortran else "C", self.budget)


def _make_array(content: Any, dtype: Any, shape: Any, order: str, budget: Budget) -> np.ndarray:
    is_shape = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8
    if not isinstance(dtype, _Dtype) or not is_shape:
        raise BrokenPickle("an array whose shape or format is none")
    size = math.prod(shape)
    if dtype.is_object:
        plain = (np.ndarray, np.number, int, float)
        if not isinstance(content, list) or len(content) != size or not all(isinstance(x, plain) for x in content):
            raise BrokenPickle("an array of objects that are no numbers or arrays")
        budget.take(8 * size)
        array = np.empty(size, dtype=object)
        array[:] = content if size != 1 else [None]  # numpy would unfold a single array
        if size == 1:
            array[0] = content[0]
        return array.reshape(shape, order="F" if order == "F" else "C")
    number = dtype.numpy()
    if isinstance(content, str):  # bytes of Python 2
        content = content.encode("latin-1")
    if not isinstance(content, (bytes, bytearray)) or len(content) != size * number.itemsize:
        raise BrokenPickle("an array whose bytes do not fill its shape")
    budget.take(len(content))
    flat = np.frombuffer(content, number).astype(number.newbyteorder("="))
    return flat.reshape(shape, order="F" if order == "F" else "C")


def numbers_and(admit: Admit, budget: Budget) -> Admit:
    """Admits what arrays, scalars and bytes of any protocol need, and what ``admit`` admits."""

    def scalar(dtype: Any, content: Any) -> Any:
        return _make_array(content, dtype, (), "C", budget)[()]

    def encode(text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise BrokenPickle("text in an encoding that is not latin1")
        budget.take(len(text))
        return text.encode("latin-1")

    def buffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        return _make_array(content, dtype, shape, order, budget)

    core = "numpy._core"
    names = {
        "numpy.dtype": Call(_dtype),
        "numpy.ndarray": Call(lambda *_: _Array(budget)),
        f"{core}.multiarray._reconstruct": Call(lambda *_: _Array(budget)),
        f"{core}.multiarray.scalar": Call(scalar),
        f"{core}.numeric._frombuffer": Call(buffer),
        "_codecs.encode": Call(encode),
        "builtins.set": Call(lambda items=(): set(map(_key, items))),
        "builtins.frozenset": Call(lambda items=(): frozenset(map(_key, items))),
        "builtins.bytes": Call(lambda: b""),  # how protocols up to 2 write empty bytes
        "builtins.bytearray": Call(lambda content=b"": content),
        "collections.OrderedDict": Call(lambda items=(): {_key(key): value for key, value in items}),
    }
    return lambda name: names[name] if name in names else admit(name)
