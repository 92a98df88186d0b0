"""The one error tree.

    GalacticError
     ├── Rejected      the user must change something; never retried
     ├── NotYet        waits for something named; tried again when that arrives
     └── Unreachable   a dependency is away; retried with back-off, and counted

Each calls for something different of whoever catches it, and there is no fourth. Foreign exceptions are translated
into one of these once, at the adapter they come from (``galactic.linux``, ``galactic.bus``, ``galactic.kube``,
``galactic.router.database``).
"""


class GalacticError(Exception):
    """Anything Galactic itself raises."""


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
