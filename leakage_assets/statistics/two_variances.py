"""One interval for a value that questions and adapters both make uncertain.

An interval over questions holds the adapters fixed, one over adapters the questions. Asking that both leave a threshold
out is no test of either kind: both surround the same value, whose variance is the sum.
"""

from __future__ import annotations

import math

import numpy as np

from leakage_assets.statistics.result import Estimate, undefined, with_interval
from leakage_assets.statistics.student import t_error, t_interval, t_p

UNIT = "question cluster and adapter"


def over_both(
    name: str,
    questions: Estimate,
    adapters: Estimate,
    *,
    level: float = 0.95,
    null: float = 0.0,
    enough: int = 0,
    questions_error: float | None = None,
) -> Estimate:
    """The value of `questions` with an interval whose variance is that over questions plus that over adapters.

    Standard errors are read from the two intervals, which must be Student's: half their width over t at their level, on
    their n - 1. The
    degrees of freedom of the sum are Satterthwaite's (1946): (a² + b²)² / (a⁴/dfa + b⁴/dfb). An estimate without an
    interval, because nothing varies, adds nothing. The part of the adapters holds the noise of completions as well,
    which the part of the questions also has: the interval is rather too wide than too narrow.

    Args:
        questions: resampled over questions, adapters held fixed; ``n`` questions.
        adapters: the same value over ``n`` independent pairs of adapters.
        null: what p is against, two-sided.
        questions_error: the standard error over questions where their interval is not Student's, as of a bootstrap,
            whose percentiles are narrower.
        enough: with fewer adapters the degrees of freedom are those of the adapters alone, the fewest they can be:
            Satterthwaite's are too many where few adapters vary more than the questions, as a variance that comes out
            near zero by chance hands the test to the questions.

    Returns:
        n is the smaller one. Undefined where either estimate is; where neither varies no interval, and a p only of the
        null itself.
    """
    n = min(questions.n, adapters.n)
    method = f"value over {questions.n} question clusters; t on the variance over them plus over {adapters.n} adapters"
    for part in (questions, adapters):
        if part.estimate is None:
            return undefined(name, part.undefined or "", n=n, unit=UNIT, method=method)
    value = float(questions.estimate or 0.0)
    parts = [
        (t_error(part, degrees) if error is None else error, degrees)
        for part, degrees, error in ((questions, questions.n - 1, questions_error), (adapters, adapters.n - 1, None))
        if part.ci_low is not None and degrees > 0
    ]
    variance = sum(error**2 for error, _ in parts)
    if not variance:
        p = 1.0 if value == null else None  # the null itself; of another value nothing says how sure it is
        return with_interval(name, value, "nothing varies", level=level, p=p, n=n, unit=UNIT, method=method)
    degrees = variance**2 / sum(error**4 / each for error, each in parts)
    if adapters.n < enough:
        degrees, method = adapters.n - 1, f"{method}, on the degrees of freedom of the adapters alone"
    error = math.sqrt(variance)
    low, high = (float(end) for end in t_interval(np.array(value), np.array(error), degrees, level))
    told = f"{method} (p: against {null:g})" if null else method
    return Estimate(name, value, low, high, level, t_p(value - null, error, degrees), n, UNIT, told)
