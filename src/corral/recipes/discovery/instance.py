"""Instances of services, and their JSON: that of Curator's ``ServiceDiscovery`` (D1).

The bytes are those of Curator's default serializer: the same keys in the same order. It reads only what it
expects, and old versions of it refuse unknown keys, so `enabled` is written only if it is false. What others
write is read as leniently as Curator reads it.
"""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from corral import verify
from corral.errors import UsageTypeError, UsageValueError, shown

__all__ = ["InvalidInstance", "Payload", "ServiceInstance", "ServiceType", "decode", "encode", "new_instance"]

Payload: TypeAlias = "Mapping[str, Any] | str | int | float | bool | None"
"""What an instance tells of itself: anything that JSON can express, but not a list, which Curator refuses."""


class ServiceType(enum.Enum):
    """How long an instance stays registered. The names are Curator's."""

    DYNAMIC = "DYNAMIC"
    """As long as the session that registered it."""
    STATIC = "STATIC"
    """Until it is unregistered."""
    PERMANENT = "PERMANENT"
    """Until it is unregistered."""
    DYNAMIC_SEQUENTIAL = "DYNAMIC_SEQUENTIAL"
    """As DYNAMIC; a number is appended to the name of its znode."""


@dataclass(frozen=True, slots=True)
class ServiceInstance:
    """An instance of a service, as it is registered. The fields are those of Curator's ``ServiceInstance``.

    It can be hashed, by its name and id; treat its payload as read-only."""

    name: str
    """The name of the service."""
    id: str
    """Tells the instances of a service apart."""
    address: str
    """Its host name or IP address."""
    port: int | None = None
    """Its port, if it has one that is not for TLS."""
    ssl_port: int | None = None
    """Its port for TLS, if it has one."""
    payload: Any = None
    """What it tells of itself: what its JSON contains."""
    registration_time: float = 0.0
    """When it was registered: seconds since the epoch, by its own clock."""
    service_type: ServiceType = ServiceType.DYNAMIC
    """How long it stays registered."""
    uri_spec: str | None = None
    """A pattern for URIs, such as ``"{scheme}://{address}:{port}"``."""
    enabled: bool = True
    """Whether it is to be used."""

    def __hash__(self) -> int:
        return hash((self.name, self.id))


class InvalidInstance(ValueError):
    """What is registered is not the JSON of an instance. The message never shows the data."""


def new_instance(
    name: str,
    *,
    id: str,
    address: str,
    port: int | None,
    ssl_port: int | None,
    payload: Payload,
    uri_spec: str | None,
    registration_time: float,
    service_type: ServiceType,
) -> ServiceInstance:
    """An instance that can be registered. Raises `UsageValueError` and `UsageTypeError`."""
    verify.node_name(name, "the name of a service")
    verify.node_name(id, "the id of an instance")
    if not verify.text(address, "address"):
        raise UsageValueError("address is empty; pass the host name or IP address that others connect to")
    verify.port(port, "port")
    verify.port(ssl_port, "ssl_port")
    if uri_spec is not None:
        _uri_parts(verify.text(uri_spec, "uri_spec"))
    return ServiceInstance(
        name, id, address, port, ssl_port, payload, registration_time, service_type, uri_spec
    )


# Writing


def encode(instance: ServiceInstance) -> bytes:
    """The JSON of an instance. Raises `UsageValueError` and `UsageTypeError` for its payload."""
    payload = instance.payload
    if payload is not None and not isinstance(payload, str | int | float | Mapping):
        listed = isinstance(payload, list | tuple | set | frozenset)
        remedy = "; Curator refuses lists, so put it into a dict" if listed else ""
        raise UsageTypeError(
            f"payload must be a dict, a str, a number or None, not {type(payload).__name__}{remedy}"
        )
    fields: dict[str, Any] = {
        "name": instance.name,
        "id": instance.id,
        "address": instance.address,
        "port": instance.port,
        "sslPort": instance.ssl_port,
        "payload": dict(payload) if isinstance(payload, Mapping) else payload,
        "registrationTimeUTC": round(instance.registration_time * 1000),
        "serviceType": instance.service_type.value,
        "uriSpec": None if instance.uri_spec is None else {"parts": _uri_parts(instance.uri_spec)},
    }
    if not instance.enabled:
        fields["enabled"] = False
    problem = ""
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        problem = "it contains a lone surrogate"  # raised below, since this error contains the payload
    except RecursionError:
        problem = "it is nested too deeply, or contains itself"
    except (TypeError, ValueError) as error:
        problem = f"JSON cannot express it: {error}"
    raise UsageValueError(f"payload cannot be registered: {problem}; pass strings, numbers, dicts and lists")


_VARIABLE = re.compile(r"\{([^{}]+)\}")


def _uri_parts(spec: str) -> list[dict[str, Any]]:
    """Curator's form of a pattern: literal text and variables, in turn."""
    parts = []
    for index, value in enumerate(_VARIABLE.split(spec)):
        is_variable = index % 2 == 1
        if not is_variable and ("{" in value or "}" in value):
            raise UsageValueError(
                f"uri_spec {shown(spec)} has braces that do not enclose a variable, such as {{address}}"
            )
        if value:
            parts.append({"value": value, "variable": is_variable})
    return parts


# Reading


def decode(name: str, id: str, data: bytes) -> ServiceInstance:
    """The instance that was registered as this data. `name` and `id` are for what it does not tell: those of
    its znode. Raises `InvalidInstance`."""
    try:
        fields = _DECODER.decode(data.decode())
    except RecursionError:
        raise InvalidInstance("it is nested too deeply") from None
    except ValueError as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise InvalidInstance(f"it is not JSON ({problem})") from None
    if not isinstance(fields, dict):
        raise InvalidInstance("it is not a JSON object")
    service_type = fields.get("serviceType")
    if service_type is None:
        service_type = "DYNAMIC"
    if not isinstance(service_type, str) or service_type not in ServiceType.__members__:
        raise InvalidInstance("its serviceType is unknown")
    enabled = fields.get("enabled")
    if not isinstance(enabled, bool | None):
        raise InvalidInstance("its enabled is not true or false")
    return ServiceInstance(
        _text(fields, "name", name),
        _text(fields, "id", id),
        _text(fields, "address", None),
        _number(fields, "port"),
        _number(fields, "sslPort"),
        fields.get("payload"),
        (_number(fields, "registrationTimeUTC") or 0) / 1000,
        ServiceType[service_type],
        _uri_spec(fields.get("uriSpec")),
        enabled is not False,
    )


def _no_number(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and the infinities are not JSON


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def _text(fields: dict[str, Any], key: str, default: str | None) -> str:
    value = fields.get(key)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise InvalidInstance(f"its {key} is not a text")
    return value


def _number(fields: dict[str, Any], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
        return int(value)  # as Curator reads it
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise InvalidInstance(f"its {key} is not a number")
    return value


def _uri_spec(value: Any) -> str | None:
    if value is None:
        return None
    try:
        parts = [(part["value"], part["variable"]) for part in value["parts"]]
        return "".join("{" + text + "}" if variable else "" + text for text, variable in parts)
    except (KeyError, TypeError):
        raise InvalidInstance("its uriSpec is malformed") from None
