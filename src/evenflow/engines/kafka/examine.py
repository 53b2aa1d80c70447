"""Whether the brokers keep what they confirm: asked at every start, and told in full by a check-up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evenflow.checkup import Finding
from evenflow.engines.kafka.client import DOCTOR, Client, administration
from evenflow.errors import EvenflowError, Refused

FIRST = 5.0
"""Seconds that the first question may take."""
UNSAFE = {"single", "replicas", "election"}


async def verify(client: Client) -> None:
    """Raise `Refused` where something is unsafe that the URL does not allow, `EngineUnavailable` without an answer."""
    wrong = [each for each in await _findings(client) if each.level == "wrong"]
    if wrong:
        first = wrong[0]
        raise Refused(f"Kafka at {client.address}: {first.message}", remedy=first.remedy)


async def examine(client: Client) -> list[Finding]:
    """What a check-up says."""
    try:
        return await _findings(client)
    except EvenflowError as error:
        here = "see that the brokers run, and that the engine's URL names them"
        remedy = here if error.remedy == DOCTOR else error.remedy
        return [Finding("wrong", "the brokers", error.message, remedy)]


async def _findings(client: Client) -> list[Finding]:
    unknown = client.options.allow_unsafe - UNSAFE
    if unknown:
        raise Refused(
            f"allow_unsafe={','.join(sorted(unknown))} means nothing here", remedy=f"known: {', '.join(sorted(UNSAFE))}"
        )
    what = "which brokers are there"
    asking = client.admin.describe_cluster(include_authorized_operations=True, request_timeout=FIRST)
    described: Any = await client.ask_first(asking, what, FIRST)
    brokers = len(described.nodes)
    found = [Finding("ok", "the brokers", f"{brokers} at {client.address}, cluster {described.cluster_id}")]
    config = await _config(client, described.controller or described.nodes[0])
    found += _rights(client, described.authorized_operations)
    return [*found, *_copies(client, brokers, config), *_others(client, config)]


def _rights(client: Client, allowed: Sequence[Any] | None) -> Iterator[Finding]:
    """What this user may do with the cluster. Rights to single topics and groups are met where they are used."""
    who = f"the user {client.address.user!r}" if client.address.user else "an unnamed user"
    names = {each.name for each in allowed or ()}
    if names and not names & {"CREATE", "ALL"}:
        yield Finding(
            "warn",
            "rights",
            f"{who} may not make topics on the cluster: topics that are declared here have to be there, or allowed one "
            "by one",
            "let its administrators grant CREATE on the cluster, or on topics by their prefix",
        )
    elif names:
        yield Finding("ok", "rights", f"{who} may make topics")


async def _config(client: Client, broker: Any) -> Mapping[str, str]:
    resource = administration.ConfigResource(administration.ResourceType.BROKER, str(broker.id))
    (future,) = client.admin.describe_configs([resource], request_timeout=FIRST).values()
    found: Mapping[str, Any] = await client.ask(future, "how are the brokers configured", FIRST + 1)
    return {each.name: each.value or "" for each in found.values()}


def _copies(client: Client, brokers: int, config: Mapping[str, str]) -> Iterator[Finding]:
    options, about = client.options, "copies"
    copies = options.replication or min(3, brokers)
    if brokers == 1:
        known = "single" in options.allow_unsafe
        yield Finding(
            "warn" if known else "wrong",
            about,
            "there is one broker: it does not sync what it confirms to its disk, so a power cut loses events",
            "use three brokers in production"
            if known
            else "use three brokers; for development and tests add allow_unsafe=single to the engine's URL",
        )
    elif copies < 3:
        yield Finding(
            "warn" if "replicas" in options.allow_unsafe else "wrong",
            about,
            f"new topics would have {copies} copies: one broker that fails leaves a single one, or none that may lead",
            "use replication=3 (and three brokers), or add allow_unsafe=replicas to the engine's URL",
        )
    elif copies > brokers:
        yield Finding(
            "wrong",
            about,
            f"replication={copies} needs as many brokers, there are {brokers}",
            "start them, or lower it",
        )
    else:
        yield Finding("ok", about, f"new topics have {copies} copies, two of which must have a record")
    if int(config.get("offsets.topic.replication.factor") or 3) < min(3, brokers):
        yield Finding(
            "warn", "copies of offsets", "the brokers keep too few copies of groups' offsets", "raise them to 3"
        )


def _others(client: Client, config: Mapping[str, str]) -> Iterator[Finding]:
    if config.get("unclean.leader.election.enable") == "true":
        yield Finding(
            "warn" if "election" in client.options.allow_unsafe else "wrong",
            "elections",
            "a broker without the newest events may become leader, and they are lost (unclean.leader.election.enable)",
            "set it to false on the brokers, or add allow_unsafe=election to the engine's URL",
        )
    if config.get("auto.create.topics.enable") == "true":
        yield Finding(
            "warn",
            "topics",
            "brokers make a topic for whoever names one (auto.create.topics.enable): a typo makes a topic",
            "set it to false",
        )
    limit = int(config.get("message.max.bytes") or 0)
    if limit and limit < client.options.max_bytes:
        yield Finding(
            "ok", "sizes", f"topics of others take {limit:,} bytes at most, ours {client.options.max_bytes:,}"
        )
