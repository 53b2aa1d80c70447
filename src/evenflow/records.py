"""How records that other teams write become events: facts about a topic, stated where it is declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from evenflow.errors import DefinitionError
from evenflow.ids import NAME_RULE, is_name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What the type of a record is that is no CloudEvent: at most one of `always`, `header` and `field` says it.

    A CloudEvent says its type itself. A record whose type nobody asks for is skipped.

    always  every record is an event of this type
    header  the header whose value is its type
    field   the field of its value, which is JSON, that holds its type; "meta.type" for one within another
    names   what they call a type, and its name here; a type that is not among them stands for itself
    """

    always: str = ""
    header: str = ""
    field: str = ""
    names: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)

    def __post_init__(self) -> None:
        said = [f"{name}={text!r}" for name in ("always", "header", "field") if (text := getattr(self, name))]
        if len(said) > 1:
            raise DefinitionError(f"Records has {' and '.join(said)}", remedy="one of them says the type: choose one")
        if not said and not self.names:
            raise DefinitionError(
                "Records() says nothing", remedy='say where the type of a record stands, such as header="event-type"'
            )
        if self.always and self.names:
            raise DefinitionError(
                "Records has always=… and names=…", remedy="leave one out: of one type, none is to be renamed"
            )
        for name in (*filter(None, [self.always]), *(self.names or {}).values()):
            if not is_name(name):
                raise DefinitionError(f"Records names the type {name!r}", remedy=f"a type here: {NAME_RULE}")

    def named(self, theirs: str) -> str:
        """Our name of a type that they call so."""
        return theirs if self.names is None else self.names.get(theirs, theirs)

    def theirs(self, ours: str) -> str:
        """What they call a type of ours."""
        return next((theirs for theirs, name in (self.names or {}).items() if name == ours), ours)
