"""A described app as text and as a Mermaid flowchart."""

from __future__ import annotations

from typing import Any

from evenflow.cli.output import duration, paint

Document = dict[str, Any]


def text(app: Document) -> str:
    """For a person: topics with their events, then groups by service."""
    lines = [f"{paint('app', 'dim')} {paint(app['app'], 'bold')}", "", paint("TOPICS", "dim")]
    for name, topic in app["topics"].items():
        lines.append(f"  {paint(name, 'bold')}  {_facts(topic)}")
        events = [(type_, each) for type_, each in app["events"].items() if each["topic"] == name]
        width = max((len(type_) for type_, _ in events), default=0)
        for type_, each in events:
            key = f"key {', '.join(each['key'])}" if each["key"] else "no key, no order"
            lines.append(f"    {type_.ljust(width)}  {each['class']}, version {each['version']}, {key}")
    lines += ["", paint("GROUPS", "dim")]
    width = max((len(each["kind"]) for each in app["groups"].values()), default=0)
    for name, group in app["groups"].items():
        lines.append(f"  {paint(name, 'bold')}")
        published = f" → {', '.join(group['publishes'])}" if group["publishes"] else ""
        lines.append(f"    {group['kind'].ljust(width)}  {', '.join(group['events'])}{published}")
    if not app["groups"]:
        lines.append("  none: this app only publishes")
    schedules = app.get("schedules", {})
    lines += ["", paint("SCHEDULES", "dim")] if schedules else []
    for name, each in schedules.items():
        published = f" → {', '.join(each['publishes'])}" if each["publishes"] else ""
        lines.append(f"  {paint(name, 'bold')}\n    {each['kind']}  {_times(each)}{published}")
    return "\n".join(lines)


def _times(schedule: Document) -> str:
    return f"{schedule['cron']} {schedule['tz']}" if schedule["cron"] else f"every {duration(schedule['every'])}"


def _facts(topic: Document) -> str:
    if not topic["owned"]:
        return "another team's"
    kept = "kept for ever" if topic["retention"] is None else f"kept {duration(topic['retention'])}"
    if topic["retention_bytes"] is not None:
        kept += f", at most {topic['retention_bytes']:,} bytes per partition"
    compacted = ", the latest of each key" if topic["compacted"] else ""
    plural = "" if topic["partitions"] == 1 else "s"
    return f"{topic['partitions']} partition{plural}, {kept}{compacted}, {topic['codec']}"


def mermaid(app: Document) -> str:
    """A flowchart: topics, groups by service, and the events that flow between them."""
    lines = ["flowchart LR"]
    lines += [f'  {_id("t", name)}[("{name}")]' for name in app["topics"]]
    schedules = app.get("schedules", {})
    for service in sorted({each["service"] for each in [*app["groups"].values(), *schedules.values()]}):
        lines.append(f'  subgraph {_id("s", service)}["{service}"]')
        for name, group in app["groups"].items():
            if group["service"] == service:
                lines.append(f'    {_id("g", name)}["{name}<br/>{group["kind"]}"]')
        for name, each in schedules.items():
            if each["service"] == service:
                lines.append(f'    {_id("g", name)}(["{name}<br/>{_times(each)}"])')
        lines.append("  end")
    for name, group in {**app["groups"], **schedules}.items():
        for topic, types in _by_topic(app, group.get("events", [])).items():
            lines.append(f'  {_id("t", topic)} -->|"{", ".join(types)}"| {_id("g", name)}')
        for topic, types in _by_topic(app, group["publishes"]).items():
            lines.append(f'  {_id("g", name)} -->|"{", ".join(types)}"| {_id("t", topic)}')
    return "\n".join(lines)


def _by_topic(app: Document, types: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for type_ in types:
        found.setdefault(app["events"][type_]["topic"], []).append(type_)
    return found


def _id(prefix: str, name: str) -> str:
    """Names hold only small letters, digits, '.', '-' and '_'."""
    return f"{prefix}_{name.replace('_', '__').replace('.', '_d_').replace('-', '_h_')}"
