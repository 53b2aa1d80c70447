"""Follows every link of the built site: what is inside has to be there, with its anchor; what is outside is listed.

`python docs/_site/links.py build/docs`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "srcset"}
BUILT_FOR_SCRIPTS = {"search.html", "genindex.html"}


class Page(NamedTuple):
    """What a page points to, and what can be pointed to in it."""

    links: list[str]
    anchors: set[str]


class Links(NamedTuple):
    """What was found in a site: "page: link" for each dead one, and every address outside."""

    followed: int
    dead: list[str]
    outside: dict[str, list[str]]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page([], set())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        link = given.get(LINKS.get(tag, ""))
        if link:
            self.page.links.append(link)
        self.page.anchors.update(value for name in ("id", "name") if (value := given.get(name)))


def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site."""
    found = {}
    for file in sorted(site.rglob("*.html")):
        reader = _Reader()
        reader.feed(file.read_text("utf-8"))
        found[file.resolve()] = reader.page
    return found


def follow(site: Path) -> Links:
    """Follow all links of all pages."""
    known = pages(site)
    dead, outside, followed = [], dict[str, list[str]](), 0
    for file, page in known.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto"):
                outside.setdefault(link, []).append(file.name)
            elif parts.scheme != "data":
                followed += 1
                dead += [f"{file.relative_to(site.resolve())}: {link} {why}" for why in wrong(known, file, link)]
    return Links(followed, dead, outside)


def wrong(known: dict[Path, Page], file: Path, link: str) -> Iterator[str]:
    """Why this link leads nowhere."""
    parts = urlsplit(link)
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    target = target / "index.html" if target.is_dir() else target
    anchor = unquote(parts.fragment)
    if not target.is_file():
        yield "is no file"
    elif anchor and target in known and target.name not in BUILT_FOR_SCRIPTS and anchor not in known[target].anchors:
        yield f"has no anchor {anchor!r}"


def main() -> int:
    """Print what was found; 1 when a link is dead."""
    found = follow(Path(sys.argv[1]))
    for link, where in sorted(found.outside.items()):
        print(f"  outside, not followed: {link} (on {len(where)} {'page' if len(where) == 1 else 'pages'})")
    for line in found.dead:
        print(f"  dead: {line}")
    print(f"{found.followed:,} links inside were followed, {len(found.dead)} are dead")
    return 1 if found.dead else 0


if __name__ == "__main__":
    sys.exit(main())
