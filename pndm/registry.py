"""Names to things: the registries of solvers, schedules and grids."""

from __future__ import annotations

import inspect
import numbers
import reprlib
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any, Generic, NamedTuple, TypeVar, get_type_hints

from pndm.errors import OptionError, unknown_name

T = TypeVar("T")
TYPES: dict[Any, tuple[type, str]] = {  # of options that are checked, with the words for them
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a name"),
}


class Option(NamedTuple):
    """One option of a registered thing: its type, and its default (inspect.Parameter.empty when it must be given)."""

    type: Any
    default: Any


class Registry(Generic[T]):
    """Things of one kind by name; each is a class whose constructor's parameters are its options.

    `kind` is the word used in messages ("solver"). `group` is the entry-point group through which an installed
    third-party package adds its own; they are loaded when a name is first looked up. `base` is the class of them all.
    """

    def __init__(self, kind: str, group: str | None = None, base: type = object):
        self.kind, self.group, self.base = kind, group, base
        self._entries: dict[str, tuple[type, dict[str, Any], str]] = {}
        self._options: dict[str, dict[str, Option]] = {}

    def register(self, name: str, *, about: str | None = None, **preset: Any) -> Callable[[type[T]], type[T]]:
        """Class decorator: make `name` create this class, with `preset` in place of its parameters' defaults.

        One class can bear several names, each with its own preset. `about` is the line that a listing shows; the first
        line of the docstring otherwise. Raises OptionError for a name that is taken, by another class or with another
        preset, and for a preset that is not among the class's options.
        """

        def decorate(cls: type[T]) -> type[T]:
            if name in self._entries and self._entries[name][:2] != (cls, preset):
                holder, held, _ = self._entries[name]
                options = ", ".join(f"{option}={value!r}" for option, value in held.items())
                raise OptionError(f"{self.kind} name {name!r} is taken by {holder.__qualname__}({options})")
            known = inspect.signature(cls).parameters if preset else ()
            for option in preset:
                if option not in known:
                    raise self._no_option(name, option, known)
            self._entries[name] = (cls, preset, about or (cls.__doc__ or "").strip().split("\n")[0])
            return cls

        return decorate

    def names(self) -> list[str]:
        """All known names, sorted."""
        self._load_plugins()
        return sorted(self._entries)

    def about(self, name: str) -> str:
        """The one line that describes `name`."""
        return self._entry(name)[2]

    def options(self, name: str) -> dict[str, Option]:
        """The options of `name`, with the preset's values as defaults."""
        cls, preset, _ = self._entry(name)
        if name not in self._options:  # reading a signature takes as long as a few steps
            types = get_type_hints(cls.__init__)  # type: ignore[misc]
            self._options[name] = {
                parameter.name: Option(types.get(parameter.name, Any), preset.get(parameter.name, parameter.default))
                for parameter in inspect.signature(cls).parameters.values()
            }
        return dict(self._options[name])

    def create(self, name: str, **options: Any) -> T:
        """A new object by name. Raises OptionError for an unknown name, and for options that it cannot have."""
        cls, preset, _ = self._entry(name)
        options = {**preset, **options}
        self._check(name, options)
        thing = cls(**options)
        thing.name = name
        return thing

    def _check(self, name: str, options: dict[str, Any]) -> None:
        """Raise OptionError for an option that `name` lacks, one of another type, and one that is missing."""
        accepted = self.options(name)
        for option, value in options.items():
            if option not in accepted:
                raise self._no_option(name, option, accepted)
            wanted = accepted[option].type
            kind, words = TYPES.get(wanted, (object, ""))
            if not isinstance(value, kind) or (words and isinstance(value, bool) != (wanted is bool)):
                raise OptionError(f"{self.kind} {name!r}: {option}={value!r} must be {words}")
        for option, (_, default) in accepted.items():
            if default is inspect.Parameter.empty and option not in options:
                raise OptionError(f"{self.kind} {name!r} needs its option {option!r}")

    def _no_option(self, name: str, option: str, accepted: Iterable[str]) -> OptionError:
        known = ", ".join(accepted) or "none"
        return OptionError(f"{self.kind} {name!r} has no option {option!r}: its options are {known}")

    def resolve(self, thing: str | T) -> T:
        """`thing` itself when it is an object already, else created by name with its defaults.

        Raises OptionError for an unknown name, and for what is neither: a class of such objects, say.
        """
        if isinstance(thing, str):
            return self.create(thing)
        if not isinstance(thing, self.base):
            raise OptionError(f"{self.kind}={reprlib.repr(thing)} must be a name or a {self.base.__name__} object")
        return thing

    def _entry(self, name: str) -> tuple[type, dict[str, Any], str]:
        if not isinstance(name, str):  # a list, say, cannot even be looked up
            raise unknown_name(self.kind, name, self._entries)
        if name not in self._entries:
            self._load_plugins()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def _load_plugins(self) -> None:
        group, self.group = self.group, None
        for entry in entry_points(group=group) if group else ():
            cls = entry.load()
            if self._entries.get(entry.name, (None,))[0] is not cls:  # its module may register it, with a preset
                self.register(entry.name)(cls)
