"""Makes the pictures: `make pictures` turns each docs/pictures/*.d2 into an SVG beside it.

The generator is D2: its text says what belongs together and it lays that out, with the font in the file and a dark form
beside the light one. (Graphviz has neither, Mermaid needs a browser, pikchr wants every place said.) The SVG names the
digest of its text, so that a test sees when the two differ, without the generator.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

PICTURES = Path(__file__).parents[1] / "pictures"
STYLE = PICTURES / "style.d2"
DARK = {
    "#dceaff": "#1c2f4d", "#3b6fc4": "#7fa8ea", "#eeeeee": "#2b2d31", "#777777": "#9a9a9a",
    "#fdf0d5": "#3d3018", "#b07d1e": "#d8a94f", "#e1f3e4": "#18321f", "#3f8f56": "#6fc086",
    "#ffffff": "#1b1d20", "#999999": "#7d7d7d", "#c9e8cf": "#1f4a2b",
    "#fbdcd9": "#4a2320", "#c0453a": "#e98379",
}  # fmt: skip
"""What each colour of the style becomes where the reader's page is dark."""


def sources() -> list[Path]:
    """The texts that pictures are made from."""
    return [file for file in sorted(PICTURES.glob("*.d2")) if file.name != STYLE.name]


def digest(source: Path) -> str:
    """Of all that decides how the picture looks."""
    return hashlib.sha256(source.read_bytes() + STYLE.read_bytes() + repr(sorted(DARK.items())).encode()).hexdigest()


def stale() -> list[str]:
    """Pictures that are missing, or made from another text than the one that lies beside them; and those of none."""
    texts = {each.with_suffix(".svg"): each for each in sources()}
    wrong = [f.name for f, text in texts.items() if not f.is_file() or digest(text) not in f.read_text("utf-8")]
    return wrong + [file.name for file in sorted(PICTURES.glob("*.svg")) if file not in texts]


def dark_rules() -> str:
    """Style rules that are stronger than the colours in the elements."""
    rules = (f'[{what}="{light}"]{{{what}:{dark}}}' for light, dark in DARK.items() for what in ("fill", "stroke"))
    return f"<style>@media (prefers-color-scheme:dark){{{''.join(rules)}}}</style>"


def draw(source: Path) -> Path:
    """Make one picture."""
    target = source.with_suffix(".svg")
    command = [
        "d2",
        "--elk-nodeNodeBetweenLayers=36",
        "--elk-edgeNodeBetweenLayers=18",
        "--scale=1",
        str(source),
        str(target),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # our own files
    start, _, rest = target.read_text("utf-8").rpartition("</svg>")
    target.write_text(f"{start}{dark_rules()}<!-- text: {digest(source)} --></svg>{rest}", "utf-8")
    return target


def main() -> int:
    """Make all pictures."""
    for source in sources():
        try:
            target = draw(source)
        except FileNotFoundError:
            print("the generator d2 is not installed: `make pictures` does it", file=sys.stderr)
            return 2
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr)
            return 1
        print(f"{target.name}: {target.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
