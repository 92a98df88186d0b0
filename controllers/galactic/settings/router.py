"""Settings of the router."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from galactic.settings.mqtt import MqttSettings


def _database_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("give postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return url


class RouterSettings(MqttSettings):
    """The router's."""

    kubernetes: bool = Field(
        default=True,
        description="false: standalone, for which a broker is enough; with a database several replicas may run",
    )
    database_url: Annotated[SecretStr, AfterValidator(_database_url)] | None = Field(
        default=None,
        description="postgresql://USER:PASSWORD@HOST/NAME for endpoints and their history; none: not kept",
    )
    history_retention: float = Field(
        default=0.0, ge=0, description="days for which history is kept after its end; 0: for ever"
    )
    withdraw_after: float = Field(
        default=0.0,
        ge=0,
        description="seconds after which a node that went offline loses its routes; 0: never",
    )
    admissions: Path | None = Field(
        default=None,
        description="YAML file that says which clusters may be in which VPC, read again when it changes (standalone)",
    )

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.admissions is not None and self.kubernetes:
            raise ValueError(
                "admissions: a router in Kubernetes serves its own cluster; give kubernetes=false"
            )
        return self
