"""`GET /demand/NAMESPACE/NAME`: a deployment's demand for KEDA's metrics-api trigger, and for people.

The leader answers 200 with the demand; 503 while it is unknown; 404 if it knows no such deployment. A standby passes
the request on (`leader_only`): only the leader asks gates. An answer that is no 200 is never read as 0: KEDA keeps the
current replicas.
"""

from aiohttp import web

from flash_operator.runtime.demand_board import DemandBoard
from flash_operator.runtime.keys import FlashKey
from flash_operator.runtime.leader_only import LeaderOnly, unknown

PATH = r"/demand/{namespace:[a-z0-9-]{1,63}}/{name:[a-z0-9-]{1,63}}"


class DemandServer:
    """The route, for `Health`."""

    def __init__(self, board: DemandBoard, leader: LeaderOnly) -> None:
        self._board = board
        self._leader = leader

    @property
    def route(self) -> web.RouteDef:
        return web.get(PATH, self.show)

    async def show(self, request: web.Request) -> web.Response:
        key = FlashKey(request.match_info["namespace"], request.match_info["name"])
        return await self._leader.answer(request, lambda: self._answer(key))

    def _answer(self, key: FlashKey) -> web.Response:
        report = self._board.report(key)
        if report is None:
            return web.json_response({"error": f"deployment {key} is not known, or not yet"}, status=404)
        if report.target_replicas is None:
            return unknown("the demand is unknown: no ready replica reports its requests", **report.to_json())
        return web.json_response(report.to_json())
