"""Runs a program with a meter on its event loop: ``python -P metered.py FILE MODULE [ARGUMENTS…]``.

At SIGUSR1 the longest figures since the last one are written to FILE, as JSON, in seconds of processor time, so that a
busy machine does not show:

turn: what the loop did between two looks at its sockets.
step: one callback or one step of a task, with its name.
collection: one run of the garbage collector, with its generation; part of a step.
"""

import asyncio
import functools
import gc
import json
import runpy
import signal
import sys
from asyncio import base_events, events
from pathlib import Path
from time import thread_time
from typing import Any


class Meter:
    """Of the thread that the loop runs in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reset()
        self._collecting = 0.0

    def _reset(self) -> None:
        self.turn, self.collection, self.generation = 0.0, 0.0, 0
        self.step, self.name = 0.0, ""

    def install(self) -> None:
        gc.callbacks.append(self._collected)
        signal.signal(signal.SIGUSR1, self._report)
        run_once, run = base_events.BaseEventLoop._run_once, events.Handle._run  # noqa: SLF001 - there is no other way

        def turn(loop: Any) -> None:
            began = thread_time()
            run_once(loop)
            self.turn = max(self.turn, thread_time() - began)

        def step(handle: Any) -> None:
            began = thread_time()
            run(handle)
            spent = thread_time() - began
            if spent > self.step:
                self.step, self.name = spent, _named(handle)

        # Functions of their own for the classes of asyncio, which have no hook.
        setattr(base_events.BaseEventLoop, "_run_once", turn)  # noqa: B010
        setattr(events.Handle, "_run", step)  # noqa: B010

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = thread_time()
        elif (spent := thread_time() - self._collecting) > self.collection:
            self.collection, self.generation = spent, info["generation"]

    def _report(self, *_: object) -> None:
        figures = {
            "turn": self.turn,
            "step": self.step,
            "name": self.name,
            "collection": self.collection,
            "generation": self.generation,
        }
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(figures))
        self._reset()
        partial.replace(self._path)


def _named(handle: Any) -> str:
    callback = getattr(handle, "_callback", None)
    while isinstance(callback, functools.partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine = owner.get_coro()
        return str(getattr(coroutine, "__qualname__", coroutine))
    return str(getattr(callback, "__qualname__", callback))


def main() -> None:
    path, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    Meter(path).install()
    if module.endswith(".py"):
        sys.path.insert(0, str(Path(module).parent))
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
