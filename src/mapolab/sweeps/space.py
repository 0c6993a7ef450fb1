"""What a search varies, from Hydra's own notation for ranges."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from mapolab.errors import UserError


@dataclass(frozen=True)
class Dimension:
    """One key's values: choices, or the numbers from low to high, on a logarithmic scale or not."""

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Any, key: str) -> Any:
        """Optuna's next value."""
        if self.choices:
            return trial.suggest_categorical(key, self.choices)
        if self.whole:
            return trial.suggest_int(key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether `suggest` could have given this value."""
        if self.choices:
            return value in self.choices
        return type(value) in (int, float) and self.low <= value <= self.high


def read_space(overrides: Sequence[Override]) -> tuple[list[str], dict[str, Dimension]]:
    """(overrides that all jobs share, key -> what it varies over). Later overrides of a key replace earlier ones.

    Raises UserError for a range that Optuna cannot draw from.
    """
    fixed: dict[str, str] = {}
    space: dict[str, Dimension] = {}
    for override in overrides:
        key = override.get_key_element()
        fixed.pop(key, None)
        space.pop(key, None)
        if override.is_sweep_override():
            space[key] = _dimension(key, override)
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    return list(fixed.values()), space


def grid(space: dict[str, Dimension]) -> list[dict[str, Any]]:
    """Every combination, in order. Raises UserError where an interval has no such list."""
    for key, dimension in space.items():
        if not dimension.choices:
            raise UserError(
                f"A grid needs a list for {key}: choice(a,b,c) or range(1,4). Or set hydra.sweeper.sampler=tpe."
            )
    return [
        dict(zip(space, values, strict=True))
        for values in itertools.product(*(dimension.choices for dimension in space.values()))
    ]


def _dimension(key: str, override: Override) -> Dimension:
    value = override.value()
    if isinstance(value, ChoiceSweep | RangeSweep):
        # As Hydra would write them on a command line: '1e-5' stays '1e-5', and names stay names.
        return Dimension(choices=tuple(override.sweep_string_iterator()))
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        if not low < high or (log and low <= 0):
            raise UserError(f"{key} has no values in interval({low},{high}). Give a lower and a higher number above 0.")
        whole = isinstance(low, int) and isinstance(high, int) and "float" not in value.tags
        return Dimension(low=low, high=high, log=log, whole=whole)
    raise UserError(f"{key} is given as a kind of range that a search cannot draw from. Use choice, range or interval.")
