"""The table of docs/scale.md, a column a cluster, and what is behind its figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from processes import COMPONENTS, ROUTERS, Turns
from result import Result, Start, by_kind

RUNNING: Final = ("pods start", "paced", "one change", "broker restart")
START: Final = ("start", "preloaded start")
SERVERS: Final = ("kube-apiserver", "etcd")
NONE: Final = "-"


def table(results: Sequence[Result]) -> Iterator[str]:
    """Lines of Markdown."""
    heads = [f"{result.nodes:,} nodes, {result.attachments:,} attachments" for result in results]
    yield _line("", *heads)
    yield _line(*["---"] * (len(heads) + 1))

    def row(title: str, figure: Callable[[Result], str]) -> str:
        return _line(title, *map(figure, results))

    yield row("API writes a pod", lambda result: f"{sum(result.writes.values()) / result.paced:.2f}")
    yield row("API writes while a pod comes and goes", lambda result: f"{result.whole:.2f}")
    yield row("API lists while a pod comes and goes", lambda result: f"{result.lists:.2f}")
    yield row("writes of nodes that it does not concern", lambda result: str(result.by_others))
    yield row("pods ready a second", lambda result: f"{result.ready_per_second:.0f}")
    yield row("processor time of a pod, ours", lambda result: _sum(result.spent, COMPONENTS))
    yield row("… API server and etcd", lambda result: _sum(result.spent, SERVERS))
    yield row("bound to reachable, p50 and p99", _reachable)
    yield row(
        "broker restart", lambda result: f"{result.broker[0]:.1f} s, {result.broker[1] / 2**20:.1f} MiB"
    )
    for process in (*COMPONENTS, "nodes"):
        yield row(f"memory of {process}, an attachment", lambda result, of=process: _memory(result, of))
    for process in (*COMPONENTS, "nodes"):
        yield row(
            f"longest turn of {process}, running and at start",
            lambda result, of=process: (
                f"{_longest(result, of, RUNNING)[0] * 1e3:.0f} ms, {_longest(result, of, START)[0] * 1e3:.0f} ms"
            ),
        )
    if any(result.start for result in results):
        yield from _starts(results)
    for process in _changes(results[0]):
        yield row(f"a change, {process}", lambda result, of=process: _change(result, results[0], of))


def details(results: Sequence[Result]) -> Iterator[str]:
    """Writes by kind, and where each loop was longest."""
    for result in results:
        yield f"{result.nodes:,} nodes, writes a pod: {by_kind(result.writes, result.paced)}"
        if result.start:
            yield f"  writes of the start: {by_kind(result.start.writes, 1)}"
        for process in (*COMPONENTS, "nodes"):
            for phase in (*RUNNING, *START):
                seconds, turns = _longest(result, process, (phase,))
                if turns:
                    yield (
                        f"  {process}, {phase}: {seconds * 1e3:.0f} ms, of which {turns.name} "
                        f"{turns.step * 1e3:.0f}; generation {turns.generation} {turns.collection * 1e3:.0f}"
                    )


def _starts(results: Sequence[Result]) -> Iterator[str]:
    """Rows of clusters some of whose attachments were there before the programs started."""

    def row(title: str, figure: Callable[[Result, Start], str]) -> str:
        cells = (figure(result, result.start) if result.start else NONE for result in results)
        return _line(title, *cells)

    yield row("attachments there before the start", lambda result, _: f"{result.preloaded:,}")
    yield row(
        "API writes of the start, such an attachment",
        lambda result, start: f"{sum(start.writes.values()) / result.preloaded:.4f}",
    )
    for process in (*COMPONENTS, "nodes"):
        yield row(
            f"{process}, ready and consistent after",
            lambda _, start, of=process: f"{start.ready[of]:.0f} s, {start.consistent[of]:.0f} s",
        )
    for process in (*COMPONENTS, "nodes", *SERVERS, "broker"):
        yield row(
            f"RSS of {process} after the start, and an attachment",
            lambda result, start, of=process: (
                f"{start.resident[of] / 2**20:.0f} MiB, "
                f"{(start.resident[of] - result.base[of]) / result.preloaded / 1024:.1f} KiB"
            ),
        )


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _sum(figures: Mapping[str, float], names: Sequence[str]) -> str:
    return f"{sum(figures[name] for name in names) * 1e3:.1f} ms"


def _change(result: Result, first: Result, process: str) -> str:
    figure, base = _changes(result)[process], _changes(first)[process]
    ratio = f"{figure / base:.2f}" if base > 0 else NONE
    return f"{figure * 1e3:.2f} ms ({ratio})"


def _changes(result: Result) -> dict[str, float]:
    """By process; the routers together, because either may lead."""
    changes: dict[str, float] = {}
    for name, seconds in result.change.items():
        title = "routers" if name in ROUTERS else name
        changes[title] = changes.get(title, 0.0) + seconds
    return changes


def _reachable(result: Result) -> str:
    times = result.reachable
    if not times:
        return NONE
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return f"{times[len(times) // 2] * 1e3:.0f} ms, {p99 * 1e3:.0f} ms"


def _memory(result: Result, process: str) -> str:
    filled, restarted = (result.memory[phase][process] / 1024 for phase in ("filled", "restarted"))
    return f"{filled:.1f} KiB" + ("" if process == "nodes" else f", {restarted:.1f} KiB")


def _longest(result: Result, process: str, phases: Sequence[str]) -> tuple[float, Turns | None]:
    """Of several processes of nodes, the longest step of any."""
    longest: tuple[float, Turns | None] = 0.0, None
    for phase in phases:
        for name, turns in result.turns.get(phase, {}).items():
            nodes = process == "nodes" and name.startswith("nodes-")
            seconds = turns.step if nodes else turns.turn
            if (nodes or name == process) and seconds >= longest[0]:
                longest = seconds, turns
    return longest
