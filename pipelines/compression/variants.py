"""Names of query towers: what a person asks for, and what becomes of it.

`6-layer int8`                     all layers (or as many as there are), int8
`6-layer int8 domain vocabulary`   the same with the tokens of the domain only
`2-layer int8`                     distilled from the full model, with the tokens of the domain only, and added to the
                                   static tower, which has a vocabulary of its own
`6-layer float32`, `… float16`     not quantized; float16 is for GPUs
`static`                           a vector a token, no transformer
"""

import re
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import ConfigError

Precision = Literal["float32", "float16", "int8"]
STATIC = "static"
_NAME = re.compile(r"(\d+)-layer (int8|float32|float16)( domain vocabulary)?")


@dataclass(frozen=True)
class Variant:
    """One way to read a query."""

    name: str
    layers: int = 0
    """Transformer layers at most; 0 for a static tower."""
    precision: Precision = "int8"
    domain_vocabulary: bool = False

    @property
    def static(self) -> bool:
        """Whether there is no transformer in it."""
        return self.layers == 0

    def needs_distillation(self, n_layers: int) -> bool:
        """Whether it has to learn from the full model of `n_layers` layers."""
        return self.layers < n_layers


def parse_variant(name: str) -> Variant:
    """Return the variant of a name.

    Raises:
        ConfigError: there is no such variant.
    """
    words = " ".join(name.split())
    if words == STATIC:
        return Variant(STATIC)
    found = _NAME.fullmatch(words)
    if found is None or int(found[1]) < 1:
        raise ConfigError(
            f"There is no query tower {name!r}: ask for `{STATIC}` or for `N-layer PRECISION`, such as `2-layer int8` "
            "(precisions: int8, float32, float16), with ` domain vocabulary` behind it where only the domain's tokens "
            "are to stay."
        )
    return Variant(words, int(found[1]), found[2], found[3] is not None)  # type: ignore[arg-type]  # as matched
