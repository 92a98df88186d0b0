"""Shared parts of the models: metadata, conditions, parsing."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from galactic.errors import Rejected
from galactic.names import GROUP

T = TypeVar("T", bound="Model")


class Model(BaseModel):
    """Field names are camelCase outside. Unknown fields are ignored, as the API server prunes them."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class Owner(Model):
    """An owner: Kubernetes deletes the object with it."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Meta(Model):
    """The part of an object's metadata that Galactic reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    annotations: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[Owner, ...] = ()


class Condition(Model):
    """One aspect of the object's state (the fields of metav1.Condition)."""

    type: str = Field(description="The aspect, in CamelCase.", max_length=316)
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(default="", description="The reason, as one stable CamelCase word.", max_length=1024)
    message: str = Field(
        default="", description="The reason in a sentence, with the remedy.", max_length=32768
    )
    last_transition_time: str = Field(
        default="",
        description="When the status last changed.",
        json_schema_extra={"format": "date-time"},
    )
    observed_generation: int = Field(
        default=0,
        description="The metadata.generation that the condition was computed from.",
        json_schema_extra={"format": "int64"},
    )


def trimmed(document: Mapping[str, Any]) -> dict[str, Any]:
    """An object of Galactic's kinds without metadata that no controller reads: others' annotations, and the API
    server's notes on fields. Tenants may write a quarter of a mebibyte of annotations to each object. Labels stay:
    rules select by them, and the webhook bounds them.
    """
    meta = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    if values := meta.get("annotations"):
        meta["annotations"] = {name: text for name, text in values.items() if GROUP in name}
    return {**document, "metadata": meta}


def parse(kind: type[T], document: Mapping[str, Any]) -> T:
    """The object as a model. Raises Rejected with field and value of everything that does not fit."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise Rejected(
            "; ".join(map(_sentence, error.errors(include_url=False))), reason="Invalid"
        ) from error


def _sentence(detail: Any) -> str:
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip(
        "."
    )
    given = "" if detail["type"] == "missing" else f" (given: {detail['input']!r})"
    return f"{field}: {detail['msg']}{given}"
