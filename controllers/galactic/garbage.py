"""Full garbage collections that look at what has come since the last one.

A full collection stops the event loop until every object that may be in a cycle was looked at: an operator of 2,000
attachments for 0.12 s. So what survives one is set aside (``gc.freeze``). Reference counts free objects that are set
aside as they free others. Cycles among them wait for a collection of everything, once an hour.

Each collection then costs what has come since the last one, so the more often there is one the shorter each is, and
all of them together cost no more.
"""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

WHOLE_SECONDS: Final = 3600.0
YOUNGER: Final = 3
"""Collections of the middle generation until one of the oldest; Python's own default is 10."""
_OLDEST: Final = 2
Callback = Callable[[str, Mapping[str, Any]], None]


def set_survivors_aside(clock: Callable[[], float] = time.monotonic) -> Callback:
    """From now on, and all that there is. Returns the entry of ``gc.callbacks``."""
    whole = clock()

    def collecting(phase: str, about: Mapping[str, Any]) -> None:
        nonlocal whole
        if about["generation"] != _OLDEST:
            return
        if phase == "stop":
            gc.freeze()
        elif clock() - whole >= WHOLE_SECONDS:
            whole = clock()
            gc.unfreeze()

    gc.freeze()
    gc.collect()  # the next full one waits for a quarter of what this one finds: nothing
    gc.set_threshold(*gc.get_threshold()[:_OLDEST], YOUNGER)
    gc.callbacks.append(collecting)
    return collecting
