"""Edit: another payload for a dead letter, before it is tried again. The first one is kept, and can be put back.

The payload is edited as it is stored, in the shape of the version that it was published in, so that fields that this
code does not know stay as they are. It is only accepted if the event class of the group's handler can read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from evenflow.codec import Codec
from evenflow.codecs.json import JsonCodec
from evenflow.codecs.msgpack import MsgpackCodec
from evenflow.envelope import Envelope, pack
from evenflow.errors import DecodeError, NewerVersion, PublishError, Refused
from evenflow.operate.finding import Home
from evenflow.operate.letters import Letter, head_of, subject
from evenflow.operate.payload import Change, EditInvalid, Make, changed, leaves, named, text_of
from evenflow.redrive.redriving import learn
from evenflow.registry import Binding, Registry
from evenflow.running import Running
from evenflow.store import Session

SHOWN = 200
"""Characters of a value that the audit keeps."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What an edit would do: `packed` takes the place of the letter's envelope. `restores`: it is the first again."""

    letter: Letter
    packed: bytes
    changes: Sequence[Change]
    restores: bool = False


class Shape:
    """How the events of one type are read and written by the code: what a new payload has to fit."""

    def __init__(self, running: Running, home: Home, letter: Letter) -> None:
        spec = home.spec
        if spec is None:
            raise Refused(f"the code does not have {home.group!r}, so nothing can check an edit", remedy="deploy it")
        envelope = letter.envelope
        self.registry = Registry(spec.events, running.app.codecs)
        known = self.registry.by_type.get(envelope.type)
        if known is None:
            raise Refused(
                f"the handler of {home.group!r} does not take {envelope.type}, so nothing can check an edit",
                remedy="it is passed over when it is redriven",
            )
        self.binding: Binding = known
        self.topic = letter.topic
        self.envelope = envelope
        self._limit = running.settings.max_event_bytes
        every: list[Codec] = [JsonCodec(), MsgpackCodec(), *running.app.codecs]
        self._codecs = {each.content_type: each for each in every}

    def plain(self, envelope: Envelope) -> Any:
        """The payload as plain values, or None where its bytes are not even that."""
        codec = self._codecs.get(envelope.content_type.partition(";")[0].strip().lower())
        try:
            return None if codec is None else codec.loads(self.topic, envelope.headers, envelope.data)
        except Exception:
            return None

    def event(self, envelope: Envelope) -> Any:
        """The event, or None where the class cannot read it."""
        try:
            return self.binding.read(envelope, self.topic)
        except DecodeError:
            return None

    def fitted(self, content: Any) -> Envelope:
        """The envelope with this payload. Raises `EditInvalid`, naming the field; `Refused` for newer code's."""
        envelope = self._with(content)
        try:
            event = self.binding.read(envelope, self.topic)
        except NewerVersion as error:
            raise Refused(f"{error.reason}, so it cannot check an edit", remedy="deploy the newer code first") from None
        except DecodeError as error:
            raise self._wrong(error.reason) from error
        try:
            spec, key, _slot, data, _content_type = self.registry.encode(event, self._limit)
        except PublishError as error:
            raise self._wrong(error.message) from error
        self._same_key(key)
        if max(len(data), len(envelope.data)) > self._limit:
            raise self._wrong(f"it has {len(envelope.data):,} bytes, {self._limit:,} are allowed")
        if envelope.version == spec.version:
            self._refuse_unknown(content, self._taken(envelope, data))
        return envelope

    def _with(self, content: Any) -> Envelope:
        envelope = self.envelope
        if self.plain(envelope) is None:  # not even readable: what is given is of the code's own version
            spec = self.binding.spec
            envelope = msgspec.structs.replace(envelope, version=spec.version, content_type="application/json")
        kind = envelope.content_type
        if kind == "application/msgpack":
            data = msgspec.msgpack.encode(content)
        elif kind == "application/json" or kind.endswith("+json"):
            data = msgspec.json.encode(content)
        else:
            raise Refused(f"a payload of {kind} cannot be edited here", remedy="discard it, and publish another")
        return msgspec.structs.replace(envelope, data=data)

    def _same_key(self, key: str | None) -> None:
        """The key of the class says where an event stands in order, and it stands there already."""
        before = self.event(self.envelope)
        expected = self.envelope.key if before is None else self.binding.spec.key_of(before)
        names = self.binding.spec.key
        if names and key != expected:
            raise Refused(
                f"its key {', '.join(names)} would change from {expected!r} to {key!r}, and with it the order that it "
                "is kept in",
                remedy="discard it, and publish an event with the other key",
            )

    def _taken(self, envelope: Envelope, data: bytes) -> Any:
        """What the class has taken of it, as plain values."""
        return self.plain(msgspec.structs.replace(envelope, data=data, content_type=self.binding.content_type))

    def _refuse_unknown(self, content: Any, taken: Any) -> None:
        """A reader passes over fields that it does not know; of one typed by hand that would lose what was meant."""
        known = {named(path) for path, _ in leaves(self.plain(self.envelope))} | {named(p) for p, _ in leaves(taken)}
        for path, _ in leaves(content):
            if named(path) not in known:
                top = sorted({str(each[0]) for each, _ in leaves(taken) if each})
                raise EditInvalid(
                    f"{self.binding.spec.type} has no field {text_of(path)!r}", remedy=f"known: {', '.join(top)}"
                )

    def _wrong(self, reason: str) -> EditInvalid:
        spec = self.binding.spec
        return EditInvalid(
            f"this is no {spec.type}: {reason}",
            remedy=f"nothing was changed; its fields are those of {spec.cls.__qualname__}, {spec.where}",
            where=spec.where,
        )


# -- planning and doing -----------------------------------------------------------------------------------------------


async def plan_edit(running: Running, group: str, lane: str, make: Make, topic: str | None = None) -> Edit:
    """What an edit of the dead letter of a lane would do. Raises `NotFound`, `Refused`, and `EditInvalid`."""
    home, letter = await head_of(running, group, lane, topic)
    _at_rest(letter)
    shape = Shape(running, home, letter)
    before = shape.plain(letter.envelope)
    content = make(before)
    changes = changed(before, content)
    if not changes:
        raise Refused("the payload is as it was", remedy="nothing was changed")
    return Edit(letter, pack([shape.fitted(content)]), changes)


async def plan_restore(running: Running, group: str, lane: str, topic: str | None = None) -> Edit:
    """What it would be to put the first payload back. Raises `NotFound`, `Refused` where it was not edited."""
    home, letter = await head_of(running, group, lane, topic)
    _at_rest(letter)
    if letter.original is None:
        raise Refused(f"the payload of {letter.name!r} was not edited", remedy="there is nothing to put back")
    shape = Shape(running, home, letter)
    changes = changed(shape.plain(letter.envelope), shape.plain(letter.original))
    return Edit(letter, pack([letter.original]), changes, restores=True)


async def carry_out_edit(running: Running, edit: Edit, who: str, reason: str = "") -> None:
    """Do what was planned, if the dead letter is still as it was seen. Raises `Refused` where it is not."""
    letter = edit.letter
    home, _ = await head_of(running, letter.group, letter.lane, letter.topic)
    store, now = home.store, running.clock.now()
    what = "parked restore" if edit.restores else "parked edit"
    note = _note(letter, edit.changes, reason)

    async def work(session: Session) -> None:
        await learn(session, store.sql, letter.group)
        if edit.restores:
            count = await session.execute(store.sql["parked_restore"], (*letter.place, letter.packed))
        else:
            args = (*letter.place, letter.packed, edit.packed, len(edit.packed))
            count = await session.execute(store.sql["parked_edit"], args)
        if count != 1:
            raise Refused(
                f"{letter.name!r} is not as it was when the edit was begun: somebody has edited it, or has asked for "
                "something",
                remedy="nothing was changed; look at it again",
            )
        await session.execute(store.sql["audit_add"], (now, who, what, subject(letter), note))

    await store.transact(work)


def _at_rest(letter: Letter) -> None:
    if letter.at_rest:
        return
    if letter.wish:
        why = f"a {letter.wish} of it was asked for already"
    elif letter.due is not None:
        why = "it is no dead letter: it is tried again by itself"
    else:
        why = "it waits behind another of its key"
    raise Refused(f"{letter.name!r} cannot be edited now: {why}", remedy="an edit is for a dead letter at rest")


def _note(letter: Letter, changes: Sequence[Change], reason: str) -> str:
    fields = {each.field: [each.before[:SHOWN], each.after[:SHOWN]] for each in changes}
    return msgspec.json.encode({"id": letter.envelope.id, "reason": reason, "changes": fields}).decode()
