"""``galactic-webhook``: the wiring."""

import asyncio
from datetime import timedelta
from functools import partial
from ipaddress import ip_network

from galactic.kube.certificates import Lifetime
from galactic.kube.client import connect
from galactic.kube.informer import Follower
from galactic.kube.reflector import Selection
from galactic.launch import Health, launch
from galactic.metrics import registry
from galactic.settings import WebhookSettings, load
from galactic.webhook.cluster import WATCHED, Cluster
from galactic.webhook.configuration import Address
from galactic.webhook.dispatch import Dispatcher, Rules
from galactic.webhook.joins import Joins
from galactic.webhook.metrics import Metrics
from galactic.webhook.nodesegment import identities
from galactic.webhook.registration import Files, Registration, RegistrationConfig
from galactic.webhook.server import Access, Certificate, Server
from galactic.webhook.vpc import Range


async def admit(settings: WebhookSettings, metrics: Metrics, health: Health) -> None:
    """Fills the caches, registers, then serves. Healthy from the moment at which it can answer."""
    health.set("starting", "caches and certificate are not there yet")
    async with await connect() as kube, asyncio.TaskGroup() as tasks:
        cluster = Cluster(kube, ranges(settings))
        followers = [
            Follower(kube, Selection(resource), partial(cluster.changed, resource)) for resource in WATCHED
        ]
        for follower in followers:
            tasks.create_task(follower.run())
        certificate = Certificate(metrics)
        registration = Registration(
            kube,
            registration_config(settings),
            certificate,
            lambda problem, registered: health.set("certificate", problem, ready=registered),
        )
        joins = Joins(kube, settings.namespace, cluster.identifiers)
        dispatcher = Dispatcher(cluster, rules(settings), joins)
        server = Server(
            access(settings),
            certificate,
            metrics,
            health.stopping,
            mutate=dispatcher.mutate,
            validate=dispatcher.validate,
        )
        for follower in followers:
            await follower.synced.wait()
        await registration.load()
        async with server:
            tasks.create_task(registration.run())
            await registration.ready.wait()
            health.set("starting", None)
            await asyncio.Event().wait()


def registration_config(settings: WebhookSettings) -> RegistrationConfig:
    files = None
    if settings.cert_file and settings.key_file:
        files = Files(settings.cert_file, settings.key_file, settings.ca_file)
    return RegistrationConfig(
        name=settings.webhook_name,
        address=Address(settings.namespace, settings.webhook_name, settings.webhook_url),
        configurations=settings.configuration_name if settings.configure else "",
        lifetime=Lifetime(timedelta(hours=settings.certificate_hours)),
        files=files,
        client_ca=settings.client_ca_file,
    )


def access(settings: WebhookSettings) -> Access:
    names = frozenset(filter(None, (name.strip() for name in settings.client_names.split(","))))
    return Access(settings.port, settings.max_in_flight, names)


def rules(settings: WebhookSettings) -> Rules:
    return Rules(
        identities=identities(settings.node_identities),
        srv6_block=settings.srv6_block,
        strict=settings.strict,
        patience=settings.patience,
    )


def ranges(settings: WebhookSettings) -> list[Range]:
    return [
        Range(ip_network(text.strip()), owner)
        for texts, owner in (
            (settings.pod_ranges, "the cluster's pods"),
            (settings.service_ranges, "the cluster's services"),
        )
        for text in texts.split(",")
        if text.strip()
    ]


def main() -> None:
    settings = load(WebhookSettings, program="galactic-webhook")
    own = registry("webhook")
    metrics = Metrics(own)
    launch(
        settings,
        "galactic-webhook",
        lambda health: admit(settings, metrics, health),
        own,
        drain=settings.drain_seconds,
    )


if __name__ == "__main__":
    main()
