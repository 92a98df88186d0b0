"""The one error tree.

    GalacticError
     ├── Rejected      the user must change something; never retried
     ├── NotYet        waits for something named; tried again when that arrives
     └── Unreachable   a dependency is away; retried with back-off, and counted

The caller treats each of the three differently. An adapter's own errors are subclasses of these (``kube.api.Conflict``
is a ``Rejected``), or of ``GalacticError`` where the three do not fit: ``bus.failures.Refused``,
``node.cni.protocol.Failure``. Foreign exceptions are translated once, at the adapter they come from
(``galactic.linux``, ``galactic.bus``, ``galactic.kube``, ``galactic.router.database``).
"""


class GalacticError(Exception):
    """The root, for callers that treat all three alike."""


class Rejected(GalacticError):
    """Input that can never work as it is. The message names field, value and remedy.

    ``reason`` is the stable CamelCase word for conditions, Events and metrics.
    """

    def __init__(self, message: str, *, reason: str = "Invalid", field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.reason = reason
        self.field = field


class NotYet(GalacticError):
    """Fine as it is, but something named by the message has to happen first."""

    def __init__(self, message: str, *, reason: str = "Pending") -> None:
        super().__init__(message)
        self.reason = reason


class Unreachable(GalacticError):
    """A dependency (API server, broker, kernel, database) did not answer or refused for now."""

    def __init__(self, dependency: str, message: str) -> None:
        super().__init__(f"{dependency}: {message}")
        self.dependency = dependency
