"""galactic-router: wiring only."""

import os
import socket
import sys

from galactic.bus.metrics import BusMetrics
from galactic.bus.paho import PahoBus
from galactic.errors import Rejected
from galactic.kube.client import connect
from galactic.launch import Health, launch
from galactic.metrics import registry
from galactic.router.admissions import AdmissionsFile
from galactic.router.controller import Controller
from galactic.router.election import LeaseElection
from galactic.router.metrics import RouterMetrics
from galactic.settings import USAGE_ERROR, RouterSettings, load


def main() -> None:
    settings = load(RouterSettings, program="galactic-router")
    if settings.database_url is not None:
        refusal = "database_url: recording in Postgres is not there yet; leave it out"
        sys.stderr.write(f"galactic-router: {refusal}\n")
        raise SystemExit(USAGE_ERROR)
    try:
        admissions = AdmissionsFile(settings.admissions) if settings.admissions else None
    except Rejected as error:
        sys.stderr.write(f"galactic-router: admissions: {error}\n")
        raise SystemExit(USAGE_ERROR) from error
    figures = registry("router")
    metrics = RouterMetrics(figures)
    replica = f"{socket.gethostname()}-{os.getpid()}"

    async def run(health: Health) -> None:
        kube = await connect() if settings.kubernetes else None
        try:
            async with PahoBus(settings, f"galactic-router-{replica}", metrics=BusMetrics(figures)) as bus:
                await Controller(
                    settings,
                    bus,
                    kube,
                    replica=replica,
                    metrics=metrics,
                    health=health,
                    admissions=admissions,
                    election=LeaseElection(kube, replica) if kube is not None else None,
                ).run()
        finally:
            if kube is not None:
                await kube.close()

    launch(settings, "galactic-router", run, figures)


if __name__ == "__main__":
    main()
