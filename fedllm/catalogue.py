"""Everything that can be chosen by name: aggregation rules, weight policies and all other plug-ins.

A *point* is a place in the data flow where one of several plug-ins acts. Its folder holds one file
per plug-in and a ``catalogue.py`` with ``ENTRIES: dict[str, Entry]``, which imports neither torch
nor a plug-in. From the entries come the recipe's settings and its checks, ``fedllm list``, the
command line's choices and Python's.

*A plug-in* is one file with one function and one line in ``ENTRIES``: its settings (a
:class:`~fedllm.section.Section`, whose fields are the function's keyword-only parameters with the
same defaults; a test compares them), ``module:function``, title, paper and traits
(:mod:`fedllm.traits`). What the function of a point takes and returns is in the docstring of the
point's folder.

*A plug-in of another package* is the same ``Entry`` under an entry point of that package::

    [project.entry-points."fedllm.rule"]
    plain-mean = "mypackage.plugins:PLAIN_MEAN"

A script offers one while it runs by ``POINTS["rule"].add("plain-mean", Entry(...))``. An entry
point is imported when it is asked for; keep that module free of torch, so that a mistake in a
recipe is found at once.

*A new point* is a folder with ``catalogue.py``, one line in :data:`HOMES`, and, where a recipe
chooses it, a field of type ``Annotated[Choice, FromPoint("point")]``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from fedllm.errors import ConfigError
from fedllm.faults import NESTED, Fault, faults_of
from fedllm.section import Section
from fedllm.traits import TRAITS

HOMES = {
    "partitioner": "fedllm.data.catalogue",
    "template": "fedllm.training.catalogue",
    "encoder": "fedllm.retrieval.catalogue:ENCODERS",
    "retrieval": "fedllm.retrieval.catalogue",
    "schedule": "fedllm.server.schedule.catalogue",
    "share": "fedllm.training.share.catalogue",
    "local": "fedllm.training.hooks.catalogue",
    "codec": "fedllm.codecs.catalogue",
    "weights": "fedllm.aggregation.weights.catalogue",
    "rule": "fedllm.aggregation.catalogue",
    "server": "fedllm.server.steps.catalogue",
    "grouping": "fedllm.server.grouping.catalogue",
    "task": "fedllm.eval.tasks.catalogue",
    "probe": "fedllm.eval.probes.catalogue",
}
"""Point to the module that holds its ``ENTRIES`` (or another name), in the order of a round."""


NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a plug-in may be called: its memory is a file of that name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One plug-in, described without importing it."""

    settings: type[Section]
    """Its settings, with defaults and documentation; ``Section`` itself for none."""
    module: str
    """``package.module:function``."""
    title: str
    """As a report names it."""
    paper: str = ""
    """Address of the paper, empty for what has none."""
    traits: Set[str] = frozenset()
    """Keys of :data:`fedllm.traits.TRAITS`."""
    said: str = ""
    """What it does, where no settings of its own say so."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.traits) - set(TRAITS))
        if unknown:
            raise ConfigError(
                f"{self.module} ({self.title}) has trait {unknown[0]!r}; known ones are "
                f"{', '.join(TRAITS)}"
            )

    def load(self) -> Callable[..., Any]:
        """The plug-in's function, imported now.

        Raises:
            ConfigError: The module or the function is not there.
        """
        module, _, name = self.module.partition(":")
        try:
            found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.module} ({self.title}) cannot be imported ({error}); install what it "
                "needs, or mend its entry"
            ) from None
        return found

    @property
    def summary(self) -> str:
        """What it does, in a sentence."""
        return self.said or " ".join((self.settings.__doc__ or "").split())


def entries_in(place: str) -> Callable[..., Entry]:
    """``entry(settings, function, title, paper="", *traits)`` for the plug-ins below ``place``."""

    def entry(
        settings: type[Section], function: str, title: str, paper: str = "", *traits: str
    ) -> Entry:
        return Entry(settings, f"{place}{function}", title, paper, frozenset(traits))

    return entry


@dataclass(frozen=True)
class Point(Mapping[str, Entry]):
    """The plug-ins of one point by name: fedllm's own, then those of other packages."""

    name: str

    @cached_property
    def own(self) -> dict[str, Entry]:
        """Those in the point's folder."""
        module, _, name = HOMES[self.name].partition(":")
        entries: dict[str, Entry] = getattr(importlib.import_module(module), name or "ENTRIES")
        return entries

    @cached_property
    def foreign(self) -> dict[str, EntryPoint]:
        """What other packages offer under ``fedllm.<point>``, not imported yet."""
        found = entry_points(group=f"fedllm.{self.name}")
        return {one.name: one for one in sorted(found, key=lambda one: one.name)}

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            KeyError: There is none.
            ConfigError: Another package offers it and cannot be used.
        """
        other = self.foreign.get(name)
        if other is None:
            return self.own[name]
        package = other.dist.name if other.dist else other.value
        if name in self.own:
            raise ConfigError(
                f"package {package} offers a {self.name} called {name}, which fedllm has; rename "
                f"its entry point in fedllm.{self.name}, or uninstall it"
            )
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"package {package} offers a {self.name} called {name!r}; a name is letters, "
                "digits, '-', '_' or '.'"
            )
        try:
            entry = other.load()
        except Exception as error:  # whatever a foreign module raises while it is imported
            raise ConfigError(
                f"{self.name} {name} of package {package} cannot be imported "
                f"({type(error).__name__}: {error}); mend or uninstall that package"
            ) from None
        if not isinstance(entry, Entry):
            raise ConfigError(
                f"{self.name} {name} of package {package}: {other.value} is a "
                f"{type(entry).__name__}, expected a fedllm.catalogue.Entry"
            )
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.foreign

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.own, *self.foreign}))

    def __len__(self) -> int:
        return len({*self.own, *self.foreign})

    def loaded(self) -> dict[str, Any]:
        """Every plug-in by name, imported: fedllm's in the folder's order, other packages' last."""
        return {name: self[name].load() for name in [*self.own, *self.foreign]}

    def add(self, name: str, entry: Entry) -> None:
        """Offers a script's own plug-in while this process lives; a package has an entry point.

        Raises:
            ConfigError: The name is taken by another.
        """
        if name in self and self[name] != entry:
            raise ConfigError(f"there is a {self.name} called {name}; choose another name")
        self.own[name] = entry

    def having(self, trait: str) -> list[str]:
        """Names of fedllm's own plug-ins with a trait: what a message may recommend."""
        return [name for name, entry in self.own.items() if trait in entry.traits]


POINTS: Mapping[str, Point] = {name: Point(name) for name in HOMES}
"""Every plug-in: ``POINTS[point][name]``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A plug-in with its settings, as a recipe, a command or a call chose it."""

    point: str
    name: str
    settings: Section = field(default_factory=Section)

    @property
    def entry(self) -> Entry:
        """What the catalogue says about it."""
        return POINTS[self.point][self.name]

    @property
    def title(self) -> str:
        """As a report names it."""
        return self.entry.title

    @property
    def traits(self) -> Set[str]:
        """What it can be combined with (:mod:`fedllm.traits`)."""
        return self.entry.traits

    @property
    def key(self) -> str:
        """``point.name``: what its memory is called."""
        return f"{self.point}.{self.name}"

    @property
    def values(self) -> dict[str, Any]:
        """Its settings by name."""
        return dict(self.settings)

    def load(self) -> Callable[..., Any]:
        """The plug-in's function with its settings filled in."""
        return partial(self.entry.load(), **self.values)

    def to_dict(self) -> dict[str, Any]:
        """As a recipe writes it, every setting named."""
        return {"name": self.name, **self.settings.model_dump(mode="json")}


class ChoiceError(ConfigError):
    """A plug-in that does not exist, or settings it does not have."""

    def __init__(self, who: str, faults: list[Fault]) -> None:
        said = [f" {fault}" if fault.where else fault.text for fault in faults]
        super().__init__("; ".join(f"{who}{text}" for text in said))
        self.faults = faults


def choose(point: str, value: Any) -> Choice:
    """The plug-in that ``value`` names, with its settings checked.

    Args:
        point: A key of ``POINTS``.
        value: A name, ``{"name": name, setting: value}``, or a ``Choice`` made before.

    Raises:
        ChoiceError: No such plug-in, an unknown setting or a wrong value.
        ConfigError: A plug-in of another package cannot be used.
    """
    if isinstance(value, Choice) and value.point == point:
        return value
    name, settings = _parts(point, value)
    if name not in POINTS[point]:
        known = f" {name!r} is unknown; choose one of {', '.join(POINTS[point])}"
        raise ChoiceError(point, [Fault("", known)])
    section = POINTS[point][name].settings
    try:
        return Choice(point, name, section.model_validate(settings))
    except ValidationError as error:
        raise ChoiceError(f"{point} {name}", faults_of(error, section)) from None


def named(point: str, name: str) -> str:
    """``name``, where it is one of the point's.

    Raises:
        ValueError: It is not; names those that are.
    """
    if name not in POINTS[point]:
        raise ValueError(f"{name!r} is unknown; choose one of {', '.join(POINTS[point])}")
    return name


def _parts(point: str, value: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return value["name"], {key: one for key, one in value.items() if key != "name"}
    given = f"={value!r:.60}"
    raise ChoiceError(
        point, [Fault("", f"{given}: expected a name, or {{name: ..., setting: ...}}")]
    )


@dataclass(frozen=True, slots=True)
class FromPoint:
    """Makes a recipe's field of type ``Choice`` take the plug-ins of one point."""

    point: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._chosen,
            serialization=core_schema.plain_serializer_function_ser_schema(Choice.to_dict),
        )

    def _chosen(self, value: Any) -> Choice:
        try:
            return choose(self.point, value)
        except ChoiceError as error:
            raise PydanticCustomError(NESTED, "{text}", _context(error, error.faults)) from None
        except ConfigError as error:
            faults = [Fault("", f": {error}")]
            raise PydanticCustomError(NESTED, "{text}", _context(error, faults)) from None


def _context(error: ConfigError, faults: list[Fault]) -> dict[str, Any]:
    return {"text": str(error), "faults": faults}


def described(settings: type[Section]) -> list[dict[str, Any]]:
    """Name, type, default and documentation of every setting."""
    return [
        {
            "name": name,
            "type": _type(one.annotation),
            "default": one.get_default(call_default_factory=True),
            "doc": " ".join((one.description or "").split()),
        }
        for name, one in settings.model_fields.items()
    ]


def _type(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
