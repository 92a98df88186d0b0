"""galactic-router: wiring only."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable

from galactic.bus.metrics import BusMetrics
from galactic.bus.paho import PahoBus
from galactic.errors import Rejected
from galactic.kube.client import connect
from galactic.launch import Health, launch
from galactic.metrics import registry
from galactic.router.controller import Controller
from galactic.router.database.history_writer import HistoryWriter
from galactic.router.database.lock import AdvisoryLock
from galactic.router.database.metrics import DatabaseMetrics
from galactic.router.inspection import serve
from galactic.router.kubernetes.router_events import RouterEvents
from galactic.router.leader.election import LeaseElection, LockElection
from galactic.router.metrics import RouterMetrics
from galactic.router.rib.import_policy import AdmissionsFile
from galactic.router.rib.store import Store
from galactic.settings import USAGE_ERROR, RouterSettings, load


def main() -> None:
    settings = load(RouterSettings, program="galactic-router")
    try:
        admissions = AdmissionsFile(settings.admissions) if settings.admissions else None
    except Rejected as error:
        sys.stderr.write(f"galactic-router: admissions: {error}\n")
        raise SystemExit(USAGE_ERROR) from error
    figures = registry("router")
    metrics = RouterMetrics(figures)
    replica = f"{socket.gethostname()}-{os.getpid()}"

    url = settings.database_url.get_secret_value() if settings.database_url else ""
    lock = LockElection(AdvisoryLock(url)) if url else None

    async def run(health: Health) -> None:
        def chronicle(store: Store, revision: Callable[[int], int]) -> HistoryWriter:
            return HistoryWriter(
                url,
                replica,
                store,
                DatabaseMetrics(figures),
                revision=revision,
                problem=lambda problem: health.set("postgres", problem),
                retention=settings.history_retention,
            )

        kube = await connect() if settings.kubernetes else None
        try:
            async with PahoBus(settings, f"galactic-router-{replica}", metrics=BusMetrics(figures)) as bus:
                controller = Controller(
                    settings,
                    bus,
                    kube,
                    replica=replica,
                    metrics=metrics,
                    health=health,
                    admissions=admissions,
                    election=LeaseElection(kube, replica) if kube is not None else lock,
                    database=chronicle if url else None,
                )
                beside = [asyncio.create_task(serve(replica, controller), name="inspection")]
                if kube is not None:
                    complaints = RouterEvents(kube, lambda: health.problems)
                    beside.append(asyncio.create_task(complaints.run(), name="complaints"))
                try:
                    await controller.run()
                finally:
                    for task in beside:
                        task.cancel()
        finally:
            if kube is not None:
                await kube.close()

    launch(settings, "galactic-router", run, figures)


if __name__ == "__main__":
    main()
