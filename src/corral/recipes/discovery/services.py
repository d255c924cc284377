"""Services: registering instances, and finding those of others (N1, N2, D1)."""

from __future__ import annotations

import dataclasses
import logging
import time
from types import EllipsisType

from corral import errors, verify
from corral.recipes.kit import ops, persistent
from corral.recipes.kit.context import RecipeContext
from corral.recipes.kit.decoded_children import ChildrenChange, DecodedWatch, keep_children
from corral.recipes.kit.node_names import PROTECTED
from corral.recipes.kit.registration import OnTaken
from corral.recipes.registration import RegisteredObject
from corral.types import Znode

from .instance import InvalidInstance, Payload, ServiceInstance, ServiceType, decode, encode, new_instance
from .provider import ServiceProvider
from .strategies import RoundRobin, Strategy

__all__ = ["ServiceRegistration", "ServiceWatch", "Services"]

logger = logging.getLogger("corral.recipes")


class InstanceReader:
    """Decodes the instances of one service. A znode that is not an instance is logged once, until it is."""

    def __init__(self, context: RecipeContext, name: str) -> None:
        self._path = context.path
        self._name = name
        self._invalid = set[str]()

    def __call__(self, node: str, znode: Znode) -> ServiceInstance | None:
        try:
            instance = decode(self._name, node, znode.data)
        except InvalidInstance as error:
            if node not in self._invalid:
                self._invalid.add(node)
                logger.warning("znode %s/%s is not an instance and is left out: %s", self._path, node, error)
            return None
        self._invalid.discard(node)
        return instance


class ServiceWatch(DecodedWatch[ServiceInstance, "tuple[ServiceInstance, ...]"]):
    """The instances of a service as an async iterator. Made by ``services.watch(name)``, for one reader.

    Use it as ``async for instances in services.watch("web"):``, or in ``async with`` for a definite end. The
    first event has the instances now, in the order of their znodes' names; it is empty if the service has
    none. Later ones follow whenever that has changed: a slow reader gets the newest instances, and never the
    same ones twice in a row. Disabled instances are included: look at `ServiceInstance.enabled`.

    Leaving the loop, an exception, or dropping the object ends the watch. All watches and providers of one
    service in a client share one server watch, and one read for each change.

    **On cancel** of ``anext`` nothing is lost: the next ``anext`` returns it. **On loss** of the connection
    it waits, without a limit, and reports the differences afterwards. It raises what `TreeWatch` does, and
    the next ``anext`` tries again. Znodes that are not the JSON of an instance are left out, and logged;
    those that we may not read are left out.
    """

    _verb = "services(...).watch"

    def __init__(self, context: RecipeContext, name: str) -> None:
        super().__init__(context, InstanceReader(context, name))

    def _event(
        self, values: tuple[ServiceInstance, ...], change: ChildrenChange[ServiceInstance]
    ) -> tuple[ServiceInstance, ...]:
        return values


class ServiceRegistration(RegisteredObject):
    """An instance of a service that is registered as long as this client lives. Made by
    ``services.register(name, ...)``.

    ``async with services.register("web", address="10.0.0.7", port=8080) as me:`` registers it, and leaving
    the block removes it. In between it is registered again, by itself, with its newest payload, in each new
    session. What is promised **on cancel** and **on loss**, the errors and the required permissions are those
    of `Registration`.
    """

    _kind = "service instance"

    def __init__(self, context: RecipeContext, on_taken: OnTaken, instance: ServiceInstance) -> None:
        super().__init__(context, on_taken)
        self._names = instance.name, instance.id

    @property
    def instance(self) -> ServiceInstance:
        """The instance as others read it, or will read it."""
        return decode(*self._names, self._node.data)

    async def update(
        self, *, payload: Payload | EllipsisType = ..., enabled: bool | EllipsisType = ...
    ) -> None:
        """Change what is given, and wait until it is registered so.

        A disabled instance stays registered and is never picked, which lets it end the work that it has. On
        cancel and on loss it does as `Registration.update`, and raises the same errors. Raises
        `UsageTypeError` and `UsageValueError` for a payload that cannot be registered.
        """
        instance = self.instance
        if not isinstance(payload, EllipsisType):
            instance = dataclasses.replace(instance, payload=payload)
        if not isinstance(enabled, EllipsisType):
            instance = dataclasses.replace(instance, enabled=verify.flag(enabled, "enabled"))
        await self._node.update(encode(instance))


class Services:
    """Services by name, each with its instances. Made by ``zk.services(base)``.

    The layout is that of Curator's ``ServiceDiscovery``, which Spring Cloud Zookeeper uses, too: the znode
    ``base/<name>/<id>`` has the JSON of an instance. Any number of tasks may use one object.

    **On cancel** and **on loss** see `ServiceRegistration`, `ServiceWatch` and `ServiceProvider`, and the
    coroutines below. Names of services and ids of instances must be possible names of znodes: not empty, and
    without ``/``. Where they are not, `UsageValueError` is raised at once.
    """

    def __init__(self, context: RecipeContext) -> None:
        self.path = context.path
        self._context = context

    def _service(self, name: str) -> RecipeContext:
        return self._context.child(verify.node_name(name, "the name of a service"))

    def _instance(self, instance: ServiceInstance) -> RecipeContext:
        return self._service(instance.name).child(instance.id, encode(instance))

    # Registering

    def register(
        self,
        name: str,
        *,
        address: str,
        port: int | None = None,
        ssl_port: int | None = None,
        payload: Payload = None,
        id: str | None = None,
        uri_spec: str | None = None,
        on_taken: OnTaken = "wait",
    ) -> ServiceRegistration:
        """A registration of an instance, to be entered with ``async with``; see `ServiceRegistration`. Does
        no I/O.

        `payload` is what others see of it: a dict, a str, a number or None, but not a list, which Curator
        refuses. `id` is by default a new GUID. If it is taken by somebody else, entering waits until they
        have left; with ``on_taken="raise"`` it raises `NodeExists`. `uri_spec` is a pattern for URIs, such as
        ``"{scheme}://{address}:{port}"``.
        """
        instance = new_instance(
            name,
            id=PROTECTED.new_guid() if id is None else id,
            address=address,
            port=port,
            ssl_port=ssl_port,
            payload=payload,
            uri_spec=uri_spec,
            registration_time=time.time(),
            service_type=ServiceType.DYNAMIC,
        )
        return ServiceRegistration(self._instance(instance), verify.on_taken(on_taken), instance)

    async def register_static(
        self,
        name: str,
        *,
        id: str,
        address: str,
        port: int | None = None,
        ssl_port: int | None = None,
        payload: Payload = None,
        uri_spec: str | None = None,
    ) -> ServiceInstance:
        """Register an instance that stays until `unregister`, for a service that does not run corral, such as
        a database. Returns it.

        An instance with this id is replaced; if several clients do that at once, one of them wins. On cancel
        it may be registered. On loss of the connection it continues until the outcome is certain. Raises
        `ConnectionLoss` when that is hopeless (`ConnectionLoss.MOST_LOSSES`), `NoAuth`, `FrameTooLarge`, and
        the error of the last attempt when others have changed the znode 16 times in a row. Requires CREATE on
        the service, and READ and WRITE on the instance.
        """
        instance = new_instance(
            name,
            id=id,
            address=address,
            port=port,
            ssl_port=ssl_port,
            payload=payload,
            uri_spec=uri_spec,
            registration_time=time.time(),
            service_type=ServiceType.STATIC,
        )
        context = self._instance(instance)
        await persistent.store(context)
        return decode(name, id, context.data)

    async def unregister(self, name: str, id: str) -> bool:
        """Remove an instance that was registered by `register_static`; whether it was there. `id` is the name
        of its znode.

        A dynamic instance is removed by leaving its block: removed here, its client registers it again. On
        cancel it may be removed. On loss of the connection it continues until the outcome is certain; errors
        are those of `register_static`. Requires DELETE on the service.
        """
        service = self._service(name)
        return await persistent.discard(service.child(verify.node_name(id, "the id of an instance")))

    # Finding

    async def names(self) -> list[str]:
        """The names of the services, sorted; none if there is no znode at the base.

        A service whose last instance has gone may be listed for a while. On cancel it ends at once. On loss
        of the connection it continues, and raises `ConnectionLoss` when that is hopeless
        (`ConnectionLoss.MOST_LOSSES`). Raises `NoAuth`. Requires READ.
        """
        context = self._context
        try:
            names, _ = await ops.children(context.session, context.full, context.path)
        except errors.NoNode:
            return []
        return sorted(names)

    async def instances(self, name: str) -> list[ServiceInstance]:
        """The instances of a service now, in the order of their znodes' names, disabled ones included.

        It reads the ids and then each instance, so one that comes or goes meanwhile may be missing. To ask
        more than now and then use `provider`. On cancel, on loss and in its errors it is as `names`. Znodes
        that are not the JSON of an instance are left out, and logged.
        """
        service = self._service(name)
        read = InstanceReader(service, name)
        found = await ops.read_children(service.session, service.full, service.path)
        instances = (read(node, znode) for node, znode in found)
        return [instance for instance in instances if instance is not None]

    def watch(self, name: str) -> ServiceWatch:
        """The instances of a service as an async iterator; see `ServiceWatch`. Does no I/O."""
        return ServiceWatch(self._service(name), name)

    def provider(self, name: str, strategy: Strategy | None = None) -> ServiceProvider:
        """Picks instances of a service, without I/O; see `ServiceProvider`.

        `strategy` is `RoundRobin` by default, `Random`, `Sticky`, or any function that takes a sequence of
        instances and returns one of them.
        """
        service = self._service(name)
        if isinstance(strategy, type):
            raise errors.UsageTypeError(
                f"strategy must be an object such as {strategy.__name__}(), not the class; call it"
            )
        chosen = RoundRobin() if strategy is None else verify.predicate(strategy, "strategy")
        kept = keep_children(service, what="provider", factory="services(...).provider(...)")
        return ServiceProvider(service, name, kept, InstanceReader(service, name), chosen)

    def __repr__(self) -> str:
        return f"<Services {self.path!r}>"
