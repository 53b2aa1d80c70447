"""`python -m tests.moving [OLD NEW]`: topics move there and back under load, while processes and moves are killed.

OLD and NEW are URLs of engines; without them two files. Exit 1 when a key was handled in another order, not at all, or
twice.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.moving.running import Run

TOPICS = ("steps", "echoes", "states")


def _moved(run: Run, source: str, target: str, *, kills: bool) -> tuple[int, int]:
    """Move all, and kill the move and others meanwhile; how many kills, and how many moves it took."""
    killed = tries = 0
    while True:
        tries += 1
        move = run.move(source, target)
        if kills and random.random() < 0.5:
            time.sleep(random.uniform(0.3, 1.2))
            run.say("kill the move" if move.poll() is None else "the move was over")
            killed += move.poll() is None
            move.kill()
        if kills and random.random() < 0.7:
            run.kill(("handle", "publish"))
            killed += 1
        if move.wait(60) == 0:
            run.say("moved")
            return killed, tries


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.moving")
    parser.add_argument("engines", nargs="*", metavar="URL")
    parser.add_argument("--moves", type=int, default=4)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--calm", action="store_true", help="kill nothing")
    given = parser.parse_args()
    random.seed(given.seed)
    folder = Path(tempfile.mkdtemp(prefix="moving-"))
    old, new = given.engines or (f"sqlite:///{folder}/old.db", f"sqlite:///{folder}/new.db")
    names = {f"EVENFLOW_TOPICS__{each.upper()}__NAME": f"moving-{given.seed}.{each}" for each in TOPICS}
    prefix = f"moving-{given.seed}."
    run = Run(folder, {"EVENFLOW_ENGINE": old, "EVENFLOW_ENGINES__NEW": new, "EVENFLOW_GROUP_PREFIX": prefix, **names})
    print(f"seed {given.seed}, folder {folder}", flush=True)
    kills = 0
    try:
        run.start("handle placing", "handle counting", "handle counting 2", "handle noting", "publish", "publish")
        run.until_published(100)
        for number in range(given.moves):
            time.sleep(random.uniform(1.5, 4.0))
            source, target = (old, new) if number % 2 == 0 else (new, old)
            killed, tries = _moved(run, source, target, kills=not given.calm)
            kills += killed
            print(f"move {number + 1}: {tries} tries, {killed} kills", flush=True)
        time.sleep(2.0)
        run.stop("publish")
        wrong = run.wait(60.0)
        events = sum(part.kept for each in run.placed() for part in each.parts)
        print(f"{events} events, {kills} kills, longest waits of publishers {run.longest()}, {len(wrong)} wrong")
        for line in wrong[:20]:
            print(f"  {line}")
        return 1 if wrong else 0
    finally:
        run.end()


if __name__ == "__main__":
    sys.exit(main())
