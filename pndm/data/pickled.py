"""Plain data out of a pickle, without executing it.

A pickle is a program for a stack machine, and two of its instructions call any Python function by name: opening a
stranger's pickle runs a stranger's code. This reader imports and calls nothing. `pickletools` splits the bytes into
instructions; those that build numbers, strings, lists, dictionaries and tuples are carried out here, the few names
that stand for a NumPy array of bytes are recognised as that, and everything else is refused. It reads what Python 2
wrote with protocol 2, the form in which CIFAR-10 is published.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_ARRAY, _TYPE, _KIND = "numpy.core.multiarray _reconstruct", "numpy dtype", "numpy ndarray"


class PickleError(Exception):
    """The pickle is damaged, or asks for something other than plain data."""


@dataclass
class _Name:
    """A name that the pickle would import: only compared, never looked up."""

    name: str


@dataclass
class _Made:
    """What a call of one of the known names would have made."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = field(default=None)


_MARK = object()
_STRINGS = {"SHORT_BINSTRING", "BINSTRING", "BINUNICODE"}
_NUMBERS = {"BININT", "BININT1", "BININT2"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def read_pickle(data: bytes) -> Any:
    """Numbers, strings, lists, dictionaries, tuples, and arrays of bytes, as the pickle nests them.

    Raises PickleError for a damaged pickle, and for one that holds anything else.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return _plain(stack.pop(), {})
            _carry_out(opcode.name, argument, stack, memo)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise PickleError(f"it is damaged, {error}") from None
    raise PickleError("it is damaged, and has no end")


def _carry_out(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """One instruction, on the machine's stack and memory."""
    if name in _STRINGS or name in _NUMBERS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"):
        stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[name]())
    elif name in ("APPEND", "APPENDS"):
        values = [stack.pop()] if name == "APPEND" else _to_mark(stack)
        stack[-1].extend(values)
    elif name in ("SETITEM", "SETITEMS"):
        values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _to_mark(stack)
        if any(isinstance(key, tuple) for key in values[::2]):  # hashing nested ones can take longer than anyone waits
            raise PickleError("it holds a tuple as a key, which plain data of Python 2 do not need")
        stack[-1].update(zip(values[::2], values[1::2], strict=True))
    elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
        values = _to_mark(stack) if name == "TUPLE" else [stack.pop() for _ in range(int(name[-1]))][::-1]
        stack.append(tuple(values))
    elif name == "GLOBAL":
        if argument not in (_ARRAY, _TYPE, _KIND):
            raise PickleError(f"it asks for {argument.replace(' ', '.')}, and only arrays of bytes are read")
        stack.append(_Name(argument))
    elif name == "REDUCE":
        arguments = stack.pop()
        stack.append(_Made(stack.pop().name, tuple(arguments)))
    elif name == "BUILD":
        state = stack.pop()
        if not isinstance(stack[-1], _Made):
            raise PickleError("it sets the state of something other than an array")
        stack[-1].state = state
    elif name != "PROTO":
        raise PickleError(f"it holds the instruction {name}, which plain data of Python 2 do not need")


def _to_mark(stack: list[Any]) -> list[Any]:
    """What lies above the last mark, which is removed."""
    place = len(stack) - 1 - next(i for i, value in enumerate(reversed(stack)) if value is _MARK)
    values = stack[place + 1 :]
    del stack[place:]
    return values


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with every made thing replaced by the array that it stands for.

    done: what has been replaced already, by identity, since a few bytes can nest one thing a billion times over.
    """
    if isinstance(value, _Name):
        raise PickleError(f"it holds the name {value.name.replace(' ', '.')} alone")
    if not isinstance(value, (dict, _Made)):
        return value
    if id(value) not in done:
        if isinstance(value, _Made):
            done[id(value)] = _array(value)
        else:
            done[id(value)] = {key: _plain(item, done) for key, item in value.items()}
    return done[id(value)]


def _array(made: _Made) -> np.ndarray:
    """A C-ordered array of bytes from the state (version, shape, type, Fortran order, content) that NumPy pickles."""
    if made.name != _ARRAY or not isinstance(made.state, tuple) or len(made.state) != 5:
        raise PickleError("it holds a NumPy object other than an array")
    _, shape, kind, fortran, content = made.state
    if not (isinstance(kind, _Made) and kind.name == _TYPE and kind.arguments[:1] == ("u1",)) or fortran:
        raise PickleError("it holds an array of something other than bytes in C order")
    return np.frombuffer(content.encode("latin-1"), dtype=np.uint8).reshape(shape)
