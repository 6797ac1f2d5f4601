"""Read the tensors of a PyTorch file (``.bin``, zip format) without running its pickle.

A pickle is a program: loading one calls what it names. Here its opcodes are decoded
by the standard library's disassembler and interpreted by a machine that knows data
only: numbers, text, tuples, lists, dictionaries, and the four names that a dictionary
of tensors needs. Every other name or opcode is refused; nothing is ever imported or
called. PyTorch is not needed. (``pickle.Unpickler`` with a list of allowed names is no
substitute: nine bytes that name a high place in its memo make it take gigabytes.)

Layout: ``<name>/data.pkl``, ``<name>/byteorder`` and one stored entry
``<name>/data/<key>`` for each storage.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from converters.errors import ConversionError

STORAGES: dict[str, tuple[mx.Dtype, np.dtype[Any]]] = {
    "FloatStorage": (mx.float32, np.dtype("<f4")),
    "HalfStorage": (mx.float16, np.dtype("<f2")),
    # numpy has no bfloat16: its bits are carried as integers.
    "BFloat16Storage": (mx.bfloat16, np.dtype("<u2")),
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_NAMES = (_ORDERED_DICT, _TENSOR, _PARAMETER, *(f"torch.{name}" for name in STORAGES))
MAX_PICKLE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions; never resolved."""

    path: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where a list of operands begins on the stack."""


def read_torch(path: Path) -> dict[str, mx.array]:
    """The tensors of a state dictionary that ``torch.save`` wrote (PyTorch 1.6 or later).

    Raises:
        ConversionError: the file is missing or damaged, in the old format, or its pickle
            holds anything but a dictionary of float tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(path, archive).read()
    except FileNotFoundError:
        raise ConversionError(f"{path} is missing; check the folder.") from None
    except zipfile.BadZipFile:
        raise ConversionError(
            f"{path} is not in PyTorch's zip format, so it cannot be read safely; save the "
            "adapter as safetensors."
        ) from None
    except (OSError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ConversionError(f"{path} is damaged ({error}); copy it again.") from None


class _Reader:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self.archive = archive
        pickles = [
            n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1
        ]
        if len(pickles) != 1:
            raise self.unreadable("it holds no data.pkl")
        self.prefix = pickles[0].removesuffix("data.pkl")
        self.storages: dict[_Storage, np.ndarray] = {}

    def read(self) -> dict[str, mx.array]:
        order = f"{self.prefix}byteorder"
        if order in self.archive.namelist() and self.entry(order) != b"little":
            raise self.unreadable("it was written on a big-endian machine")
        if self.archive.getinfo(f"{self.prefix}data.pkl").file_size > MAX_PICKLE_BYTES:
            raise self.unreadable("its pickle is far too large for a list of tensors")
        value = self.interpret(self.entry(f"{self.prefix}data.pkl"))
        if not isinstance(value, dict):
            raise self.unreadable("it holds no dictionary of tensors")
        for name, tensor in value.items():
            if not isinstance(name, str) or not isinstance(tensor, _Tensor):
                raise self.unreadable(f"its entry {name!a} is no tensor")
        return {name: self.array(name, tensor) for name, tensor in value.items()}

    def entry(self, name: str) -> bytes:
        try:
            info = self.archive.getinfo(name)
        except KeyError:
            raise self.unreadable(f"its part {name!a} is missing") from None
        # PyTorch stores; a compressed entry could be a bomb.
        if info.compress_type != zipfile.ZIP_STORED:
            raise self.unreadable(f"its part {name!a} is compressed")
        return self.archive.read(info)

    def interpret(self, program: bytes) -> Any:
        """The value that the pickle describes."""
        try:
            return _Machine(self).run(program)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise self.unreadable(f"its pickle is damaged: {error}") from None

    def array(self, name: str, tensor: _Tensor) -> mx.array:
        """The elements of ``tensor``, copied out of its storage after a bounds check."""
        dtype, words = STORAGES[tensor.storage.kind]
        if tensor.storage not in self.storages:
            data = self.entry(f"{self.prefix}data/{tensor.storage.key}")
            if len(data) != tensor.storage.count * words.itemsize:
                raise self.unreadable(f"the storage of {name} is truncated")
            self.storages[tensor.storage] = np.frombuffer(data, words)
        values = self.storages[tensor.storage]
        shape, strides = tensor.shape, tensor.strides
        last = tensor.offset + sum(
            (size - 1) * step for size, step in zip(shape, strides, strict=True)
        )
        if min((tensor.offset, *shape, *strides), default=0) < 0 or (
            0 not in shape and (last >= len(values) or math.prod(shape) > len(values))
        ):
            raise self.unreadable(f"{name} lies outside its storage")
        if 0 in shape:
            return mx.zeros(shape, dtype)
        view = np.lib.stride_tricks.as_strided(
            values[tensor.offset :],
            shape,
            tuple(step * words.itemsize for step in strides),
            writeable=False,
        )
        array = mx.array(np.ascontiguousarray(view))
        return array.view(dtype) if dtype == mx.bfloat16 else array

    def unreadable(self, why: str) -> ConversionError:
        return ConversionError(
            f"{self.path} is refused: {why}; get the adapter as safetensors, from a source "
            "that you trust."
        )


class _Machine:
    """A pickle machine without imports and calls."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("it has no end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_Mark())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE"
            ):  # fmt: skip
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.last(int(name[-1]))))
            case "APPEND" | "APPENDS":
                items = self.since_mark() if name == "APPENDS" else [stack.pop()]
                self.top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.since_mark() if name == "SETITEMS" else self.last(2)
                self.top(dict).update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.name(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, attribute = stack.pop(-2), stack.pop()
                stack.append(self.name(f"{module}.{attribute}"))
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case "REDUCE":
                called, arguments = stack.pop(-2), stack.pop()
                stack.append(self.reduced(called, arguments))
            case "BUILD":
                # A state dictionary carries its module's versions as an attribute.
                stack.pop()
                self.top(dict)
            case _:
                raise self.reader.unreadable(f"its pickle uses the opcode {name}")

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("too few operands")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def since_mark(self) -> list[Any]:
        start = max(i for i, item in enumerate(self.stack) if isinstance(item, _Mark))
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"expected a {kind.__name__}")
        return self.stack[-1]

    def name(self, path: str) -> _Name:
        if path not in _NAMES:
            kind = path.removeprefix("torch.")
            if path == f"torch.{kind}" and kind.endswith("Storage"):
                why = f"its tensors are of the type {kind}, not of {', '.join(STORAGES)}"
            else:
                why = f"its pickle names {path[:80]!a}, which no list of tensors needs"
            raise self.reader.unreadable(why)
        return _Name(path)

    def storage(self, reference: Any) -> _Storage:
        tag, kind, key, _device, count = reference
        kind_name = kind.path.removeprefix("torch.")
        if tag != "storage" or kind_name not in STORAGES or not str(key).isdecimal():
            raise self.reader.unreadable("its pickle refers to something outside the file")
        return _Storage(kind_name, str(key), int(count))

    def reduced(self, called: Any, arguments: Any) -> Any:
        path = called.path
        if path == _ORDERED_DICT and arguments == ():
            return {}
        if path == _TENSOR:
            storage, offset, shape, strides = arguments[:4]
            if not isinstance(storage, _Storage):
                raise TypeError("a tensor without a storage")
            return _Tensor(
                storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides))
            )
        if path == _PARAMETER and isinstance(arguments[0], _Tensor):
            return arguments[0]
        raise self.reader.unreadable(f"its pickle calls {path} in an unknown way")
