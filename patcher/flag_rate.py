# SPDX-License-Identifier: Apache-2.0
"""An alarm when a service flags more than clean traffic explains: a cumulative sum over images.

    S = max(0, S + log-likelihood ratio of the image's flag),   alarm while S > limit

The ratio is that of two Bernoulli distributions, the rate measured on clean images against `factor` times as much
(Page, "Continuous Inspection Schemes", Biometrika 1954). On clean traffic the mean number of images between two
false alarms is at least exp(limit) (Lorden 1971). Needs the standard library alone.
"""

from __future__ import annotations

import math

_LARGEST_RATE = 0.5


class FlagRate:
    """Counts flags and says when there are too many.

    Args:
        expected: Share of clean images that is flagged, above 0 and below 1/2.
        factor: How many times as many are to be noticed, above 1.
        images_between_false_alarms: At least so many clean images between two false alarms on average.

    Attributes:
        level: The present sum; the alarm is on while it is above `limit`.
        limit: Logarithm of the images between false alarms.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(self, expected: float, *, factor: float = 3.0, images_between_false_alarms: float = 1e6) -> None:
        if not 0 < expected < _LARGEST_RATE or factor <= 1 or images_between_false_alarms <= 1:
            raise ValueError(
                f"0 < expected < 1/2, factor > 1 and images between false alarms > 1 expected, found {expected}, "
                f"{factor} and {images_between_false_alarms}"
            )
        raised = min(factor * expected, (1 + expected) / 2)
        self._flagged, self._other = math.log(raised / expected), math.log((1 - raised) / (1 - expected))
        self.limit, self.level = math.log(images_between_false_alarms), 0.0

    def add(self, images: int, flagged: int) -> bool:
        """Take in a batch: `images` answered, `flagged` of them flagged.

        Returns:
            Whether the alarm is on.
        """
        self.level = max(0.0, self.level + (images - flagged) * self._other + flagged * self._flagged)
        return self.alarm

    @property
    def alarm(self) -> bool:
        """Whether more is flagged than clean traffic explains."""
        return self.level > self.limit
