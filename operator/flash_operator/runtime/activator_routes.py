"""`GET /activator/routes`: what activators need to know of the deployments that may be at zero.

A reconcile leaves each deployment's route behind. Only the leader has them; a standby passes the request on.
"""

from aiohttp import web

from flash_contracts.activation import ActivatorRoute, ActivatorRoutes
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.leader_only import LeaderOnly

PATH = "/activator/routes"


class RouteBoard:
    """The routes of all deployments that may be at zero."""

    def __init__(self) -> None:
        self._routes: dict[FlashKey, ActivatorRoute] = {}

    def put(self, key: FlashKey, route: ActivatorRoute | None) -> None:
        if route is None:
            self.forget(key)
        else:
            self._routes[key] = route

    def forget(self, key: FlashKey) -> None:
        """The deployment is gone, or may not go to zero any more."""
        self._routes.pop(key, None)

    def __len__(self) -> int:
        return len(self._routes)

    def keys(self) -> tuple[FlashKey, ...]:
        return tuple(self._routes)

    def document(self) -> ActivatorRoutes:
        return ActivatorRoutes(tuple(self._routes[key] for key in sorted(self._routes)))


class RouteServer:
    """The route, for `Health`."""

    def __init__(self, board: RouteBoard, leader: LeaderOnly) -> None:
        self._board = board
        self._leader = leader

    @property
    def route(self) -> web.RouteDef:
        return web.get(PATH, self.show)

    async def show(self, request: web.Request) -> web.Response:
        return await self._leader.answer(request, lambda: web.json_response(self._board.document().to_json()))
