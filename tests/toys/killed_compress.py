"""`headrace compress` in a process of its own, which dies in the middle."""

import os
import signal
from pathlib import Path

from pipelines.commands.compress import compress

from pipelines.config import HeadraceConfig
from pipelines.places import Places
from pipelines.wiring import Wiring


class KillsAt:
    """Somebody who watches, until a stage has got so far."""

    def __init__(self, stage: str, done: int) -> None:
        self.stage = stage
        self.done = done

    def update(self, stage, done, total=None, note=""):
        if stage == self.stage and done >= self.done:
            os.kill(os.getpid(), signal.SIGKILL)


def compress_until(home: Path, config: HeadraceConfig, variants: list[str], stage: str, done: int) -> None:
    """Compress the newest run of a home, and die at a stage."""
    compress(variants=variants, wiring=Wiring(Places(home), config, KillsAt(stage, done)))
