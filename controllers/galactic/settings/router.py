"""Settings of the router."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from galactic.settings import exposure
from galactic.settings.mqtt import MqttSettings


def _database_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("give postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return url


class RouterSettings(MqttSettings):
    """Settings of the router."""

    kubernetes: bool = Field(
        default=True,
        description="connect to the Kubernetes API; false: standalone, needs a broker only; several "
        "replicas need a database",
    )
    database_url: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        default=None,
        description="database for endpoints and their history, postgresql://USER:PASSWORD@HOST/NAME; none: no history",
    )
    history_retention: float = Field(
        default=0.0, ge=0, description="days that a history entry is kept after its end; 0: for ever"
    )
    usage_retention: float = Field(
        default=0.0, ge=0, description="days that the usage of a day is kept; 0: for ever"
    )
    withdraw_after: float = Field(
        default=0.0,
        ge=0,
        description="seconds after which the routes of an offline node are withdrawn; 0: never",
    )
    admissions: Path | None = Field(
        default=None,
        description="YAML file with the clusters allowed in each VPC, read again when it changes (standalone only)",
    )

    require_entitlements: bool = Field(
        default=True,
        description="install no new path of a cluster whose operator publishes no list of its attachments "
        "(publish_entitlements); false: believe the nodes of such a cluster (standalone only)",
    )

    @property
    def database_exposure(self) -> str | None:
        """The problem of a database connection that others on the way can read or answer; None where there is none."""
        url = self.database_url
        return exposure.database(url.get_secret_value(), os.environ) if url is not None else None

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.admissions is not None and self.kubernetes:
            raise ValueError(
                "admissions: a router in Kubernetes serves its own cluster; give kubernetes=false"
            )
        if self.metrics_secure and not self.kubernetes:
            raise ValueError(
                "metrics_secure: the API server decides who may read, which a router with kubernetes=false does not "
                "ask; give metrics_address 127.0.0.1 and a proxy in front"
            )
        return self
