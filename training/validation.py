"""Choosing the weights that are served by a score on things the network does not learn from."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from glassrt.engine.errors import TrainingError
from glassrt.training.config import Schedule


class Best(NamedTuple):
    """The highest score so far, the weights that reached it, and how many validations since then did not."""

    score: float = -math.inf
    misses: int = 0
    weights: Mapping[str, Tensor] = {}

    def after(self, score: float, network: nn.Module, where: str) -> "Best":
        """The best once `network` has reached `score`; its weights are copied where they are better.

        Raises TrainingError for a score that is no number, beginning with `where` it was found.
        """
        if not math.isfinite(score):
            raise TrainingError(
                f"{where}: the validation score became {score}; look at the validation set, or lower learning_rate"
            )
        if score <= self.score:
            return self._replace(misses=self.misses + 1)
        return Best(score, 0, {name: value.detach().clone() for name, value in network.state_dict().items()})


def is_due(step: int, schedule: Schedule) -> bool:
    """Whether the weights are validated after step `step`: after every so many, and after the last."""
    if not schedule.validation:
        return False
    return (step + 1) % schedule.validation.every == 0 or step + 1 == schedule.steps


def is_over(step: int, best: Best, schedule: Schedule) -> bool:
    """Whether training ends with step `step`: its last, or too many validations without a better score."""
    if step + 1 == schedule.steps:
        return True
    return bool(schedule.validation and schedule.validation.patience and best.misses >= schedule.validation.patience)
