"""`make image PIP=machine`: this machine's pip settings for the stage that fetches, as build secrets.

A secret is in no layer, history or cache. docker, podman and buildah take them alike
(``--secret``); ``controllers/Dockerfile`` mounts ``pip`` and ``ca``.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SETTINGS: Final = (
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
)
"""The settings of pip about indexes and connections; ``cert`` becomes a secret of its own."""


def configuration(settings: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text of pip's configuration file, and the folders left out of it, which a build cannot read."""
    lines, left_out = ["[global]"], []
    for name in SETTINGS:
        words = settings.get(name, "").split()
        folders = [word for word in words if word.startswith(("/", "file:"))]
        left_out += folders
        if kept := [word for word in words if word not in folders]:
            lines.append(f"{name} = {' '.join(kept)}")
    return "\n".join(lines) + "\n", left_out


def options(folder: Path, settings: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """The engine's options. ``folder`` gets pip's configuration, and has to exist during the build."""
    text, left_out = configuration(settings)
    if left_out:
        sys.stderr.write(f"image: folders are not lent, mount them yourself: {', '.join(left_out)}\n")
    path = folder / "pip.conf"
    path.touch(mode=0o600)
    path.write_text(text)
    given = [f"--secret=id=pip,src={path}"]
    authorities = (
        settings.get("cert"),
        environment.get("REQUESTS_CA_BUNDLE"),
        environment.get("SSL_CERT_FILE"),
    )
    if found := next((one for one in authorities if one and Path(one).is_file()), ""):
        given.append(f"--secret=id=ca,src={found}")
    return given
