"""A kubeconfig that the lab wrote (``controlplane.credentials``): one cluster, and one user with a token."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Access:
    """``server``: a URL. ``authority``: the file with the CA's certificate."""

    server: str
    authority: str
    token: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises OSError, ValueError."""
        config = json.loads(path.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        return cls(cluster["server"], cluster["certificate-authority"], user["token"])
