"""The JSON of instances (D1): the bytes that Curator writes, all that it accepts, and nothing that breaks a reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import corral
from corral.recipes.discovery.instance import InvalidInstance, decode, encode

CURATORS = {
    "with everything": (
        b'{"name":"web","id":"inst-1","address":"10.0.0.1","port":8080,"sslPort":8443,"payload":"hi",'
        b'"registrationTimeUTC":1795412562658,"serviceType":"DYNAMIC","uriSpec":{"parts":['
        b'{"value":"scheme","variable":true},{"value":"://","variable":false},{"value":"address","variable":true},'
        b'{"value":":","variable":false},{"value":"port","variable":true}]}}',
        corral.ServiceInstance(
            "web",
            "inst-1",
            "10.0.0.1",
            8080,
            8443,
            "hi",
            1795412562.658,
            corral.ServiceType.DYNAMIC,
            "{scheme}://{address}:{port}",
        ),
    ),
    "a Java object as payload": (
        b'{"name":"web","id":"inst-1","address":"10.0.0.1","port":8080,"sslPort":null,'
        b'"payload":{"@class":"Layout$Pay","version":"1.2","weight":7},'
        b'"registrationTimeUTC":0,"serviceType":"STATIC","uriSpec":null}',
        corral.ServiceInstance(
            "web",
            "inst-1",
            "10.0.0.1",
            8080,
            None,
            {"@class": "Layout$Pay", "version": "1.2", "weight": 7},
            0.0,
            corral.ServiceType.STATIC,
        ),
    ),
    "Spring Cloud's metadata": (
        b'{"name":"web","id":"1","address":"h","port":8080,"sslPort":null,"payload":{"@class":'
        b'"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"application-1","name":"web",'
        b'"metadata":{"instance_status":"UP"}},"registrationTimeUTC":1,"serviceType":"DYNAMIC","uriSpec":null}',
        corral.ServiceInstance(
            "web",
            "1",
            "h",
            8080,
            None,
            {
                "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
                "id": "application-1",
                "name": "web",
                "metadata": {"instance_status": "UP"},
            },
            0.001,
        ),
    ),
    "not enabled": (
        b'{"name":"web","id":"1","address":"h","port":null,"sslPort":null,"payload":null,'
        b'"registrationTimeUTC":0,"serviceType":"PERMANENT","uriSpec":null,"enabled":false}',
        corral.ServiceInstance(
            "web", "1", "h", service_type=corral.ServiceType.PERMANENT, enabled=False
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "instance"), CURATORS.values(), ids=CURATORS)
def test_curators_bytes(data: bytes, instance: corral.ServiceInstance) -> None:
    """D1: what Curator has written is read, field by field, and written again byte for byte."""
    assert decode("?", "?", data) == instance
    assert encode(instance) == data


ONLY_NEEDED: dict[str, Any] = {"name": "web", "id": "1", "address": "h", "port": 80}
LEAST = corral.ServiceInstance("web", "1", "h", 80)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, LEAST),
        ({"unknown": [1, {}], "serviceTypo": 7}, LEAST),
        ({"enabled": True}, LEAST),
        ({"enabled": None, "serviceType": None, "registrationTimeUTC": None}, LEAST),
        ({"port": "80"}, LEAST),
        ({"port": 80.0}, LEAST),
        ({"id": "2"}, corral.ServiceInstance("web", "2", "h", 80)),
        ({"id": None}, corral.ServiceInstance("web", "node", "h", 80)),
        ({"name": None}, corral.ServiceInstance("service", "1", "h", 80)),
        ({"payload": [1]}, corral.ServiceInstance("web", "1", "h", 80, payload=[1])),
        ({"payload": 7}, corral.ServiceInstance("web", "1", "h", 80, payload=7)),
    ],
)
def test_what_others_write_is_understood(more: dict[str, Any], expected: corral.ServiceInstance) -> None:
    """D1: missing, unknown and loosely typed keys are read as Curator reads them; name and id default to those of the
    znode."""
    assert decode("service", "node", json.dumps(ONLY_NEEDED | more).encode()) == expected


INVALID: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"10.0.0.7:8080",
    "not UTF-8": b'{"name":"\xff"}',
    "a list": b"[]",
    "null": b"null",
    "nested too deeply": b"[" * 100_000,
    "an object nested too deeply": b'{"a":' * 100_000,
    **{
        f"{key}: {value!r}": json.dumps(ONLY_NEEDED | {key: value}).encode()
        for key, values in {
            "address": [None, 7, ["h"], {}],
            "name": [7, []],
            "id": [7, {}],
            "port": [True, "http", [], 1e300, 2**63, "1" * 5000, 10**400],
            "sslPort": [{}, "-"],
            "registrationTimeUTC": ["now", [], 2**70],
            "serviceType": ["dynamic", 7, [], {}],
            "enabled": ["no", 0],
            "uriSpec": ["x", 7, [], {}, {"parts": None}, {"parts": [1]}, {"parts": [{"value": 1, "variable": 0}]}],
        }.items()
        for value in values
    },
    "no number": json.dumps(ONLY_NEEDED).replace("80", "NaN").encode(),
    "no number in the payload": json.dumps(ONLY_NEEDED | {"payload": float("nan")}).encode(),
    "an infinite number": json.dumps(ONLY_NEEDED).replace("80", "1e400").encode(),
    "a number of too many digits": json.dumps(ONLY_NEEDED).replace("80", "9" * 5000).encode(),
}  # fmt: skip


@pytest.mark.parametrize("data", INVALID.values(), ids=[name[:40] for name in INVALID])
def test_invalid_data_is_refused(data: bytes) -> None:
    """D1: data that is no instance raises one error, whose message does not show the data."""
    with pytest.raises(InvalidInstance) as caught:
        decode("web", "1", data)
    assert len(str(caught.value)) < 100


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
keys = st.sampled_from(
    ["name", "id", "address", "port", "sslPort", "payload", "registrationTimeUTC", "serviceType", "uriSpec", "enabled"]
)  # fmt: skip


@given(
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(keys, json_values).map(lambda value: json.dumps(ONLY_NEEDED | value).encode())
)
def test_hostile_data_raises_one_error(data: bytes) -> None:
    """D1: whatever stands in a znode is an instance, or raises that one error."""
    try:
        instance = decode("web", "node", data)
    except InvalidInstance:
        return
    assert isinstance(instance.name, str)
    assert isinstance(instance.id, str)
    assert isinstance(instance.address, str)
    for port in (instance.port, instance.ssl_port):
        assert port is None or isinstance(port, int)
    assert isinstance(instance.registration_time, float)
    assert isinstance(instance.service_type, corral.ServiceType)
    assert isinstance(instance.uri_spec, str | None)
    assert isinstance(instance.enabled, bool)
    hash(instance)


sendable = st.text(st.characters(exclude_categories=["Cs"]))
finite = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False, allow_infinity=False) | sendable  # fmt: skip
nested = st.recursive(finite, lambda inner: st.lists(inner) | st.dictionaries(sendable, inner), max_leaves=10)
uri_specs = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="{}"), min_size=1), max_size=5
).map(lambda parts: "".join("{" + part + "}" if index % 2 else part for index, part in enumerate(parts)))


@given(
    st.builds(
        corral.ServiceInstance,
        name=sendable,
        id=sendable,
        address=sendable,
        port=st.none() | st.integers(0, 65535),
        ssl_port=st.none() | st.integers(0, 65535),
        payload=finite | st.dictionaries(sendable, nested),
        registration_time=st.integers(0, 2**50).map(lambda milliseconds: milliseconds / 1000),
        service_type=st.sampled_from(corral.ServiceType),
        uri_spec=st.none() | uri_specs,
        enabled=st.booleans(),
    )
)
def test_what_is_written_is_read_again(instance: corral.ServiceInstance) -> None:
    """D1: an instance comes back as it was written, and its bytes too; its keys are Curator's, in its order."""
    data = encode(instance)
    assert decode("?", "?", data) == instance
    assert encode(decode("?", "?", data)) == data
    expected = ["name", "id", "address", "port", "sslPort", "payload", "registrationTimeUTC", "serviceType", "uriSpec"]  # fmt: skip
    assert list(json.loads(data)) == expected + (["enabled"] if not instance.enabled else [])


def endless() -> dict[str, Any]:
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    return itself


def deep() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(100_000):
        found = {"a": found}
    return found


@pytest.mark.parametrize(
    ("payload", "error", "rule"),
    [
        ([1], TypeError, "Curator refuses lists, so put it into a dict"),
        ((1,), TypeError, "Curator refuses lists"),
        ({1}, TypeError, "Curator refuses lists"),
        (b"bytes", TypeError, "not bytes"),
        (object(), TypeError, "a dict, a str, a number or None"),
        ({"a": {1}}, ValueError, "JSON cannot express it"),
        ({"a": float("nan")}, ValueError, "JSON cannot express it"),
        (float("inf"), ValueError, "JSON cannot express it"),
        ({("a",): 1}, ValueError, "JSON cannot express it"),
        ("\ud800", ValueError, "lone surrogate"),
        (endless(), ValueError, "JSON cannot express it|nested too deeply"),
    ],
    ids=lambda value: None if isinstance(value, dict | str) else repr(value)[:20],
)
def test_payloads_that_cannot_be_registered(
    zk: corral.Client, payload: Any, error: type[Exception], rule: str
) -> None:
    """D1: what Curator refuses, or JSON cannot express, is refused before anything is sent."""
    with pytest.raises(error, match=rf"payload.*({rule})") as caught:
        zk.services("/services").register("web", address="h", payload=payload)
    assert isinstance(caught.value, corral.UsageError)


def test_payload_that_is_nested_too_deeply(zk: corral.Client) -> None:
    """D1: so is one that no JSON library can write."""
    payload = deep()
    try:
        with pytest.raises(corral.UsageValueError, match="nested too deeply"):
            zk.services("/services").register("web", address="h", payload=payload)
    finally:
        while payload:  # freed level by level: the interpreter would recurse
            payload = payload["a"]
