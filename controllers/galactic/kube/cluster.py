"""The cluster that an API server is of: the UID of its namespace kube-system, which lives as long as the cluster."""

import asyncio
from typing import Final

import structlog

from galactic.backoff import Backoff
from galactic.errors import GalacticError, Rejected
from galactic.kube.api import Api
from galactic.kube.resources import NAMESPACES

log = structlog.get_logger(__name__)
KUBE_SYSTEM: Final = "kube-system"
BACKOFF_SECONDS: Final = (0.5, 10.0)


async def cluster_uid(api: Api) -> str:
    """The UID, as soon as the API server answers; empty where the namespace does not exist, or the role of an earlier
    chart does not permit to read it.
    """
    backoff = Backoff(*BACKOFF_SECONDS)
    while True:
        try:
            found, _ = await api.list(NAMESPACES, fields=f"metadata.name={KUBE_SYSTEM}")
        except GalacticError as error:
            if isinstance(error, Rejected) and error.reason == "Forbidden":
                log.warning(
                    "UID of kube-system not permitted, is the role of an earlier chart?", error=str(error)
                )
                return ""
            log.warning("UID of kube-system not read, trying again", error=str(error))
            await asyncio.sleep(backoff.pause())
        else:
            return next((str(one["metadata"]["uid"]) for one in found), "")
