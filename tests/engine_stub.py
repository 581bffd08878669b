"""A stub of vLLM's HTTP side for what a real engine cannot be brought to do on demand.

It speaks the OpenAI protocol and vLLM's metrics, and can be told to be dead, stuck, wrong or busy with others. The
real vLLM is the engine of the end-to-end tests.
"""

import asyncio
import json
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class EngineStub:
    """Set the attributes before or while it runs."""

    healthy: bool = True
    answers: list[str] = field(default_factory=lambda: ["the answer is 42"])
    """Golden answers in turn; the last one repeats."""
    tokens_per_chunk: int = 2
    acceptance: float = 1.0
    speculation: bool = True
    drafting: bool = True
    foreign_tokens: int = 0
    """Tokens generated for somebody else during each stream."""
    stuck: bool = False
    """It takes golden questions and never answers."""
    tokens_while_stuck: int = 0
    """Tokens generated between two looks at its metrics, for whomever."""
    running: int = 0
    """Requests on it, by its metrics."""
    missing_metric: str | None = None
    status: int = 200
    cut_after_chunks: int | None = None
    requests: list[str] = field(default_factory=list)
    generated: int = 0
    drafted: int = 0
    accepted: int = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        return app

    def count(self, kind: str) -> int:
        return self.requests.count(kind)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        values = {"vllm:generation_tokens_total": self.generated, "vllm:num_requests_running": self.running}
        self.generated += self.tokens_while_stuck
        if self.speculation:
            values["vllm:spec_decode_num_draft_tokens_total"] = self.drafted
            values["vllm:spec_decode_num_accepted_tokens_total"] = self.accepted
        values.pop(self.missing_metric or "", None)
        kinds = {name: "counter" if name.endswith("_total") else "gauge" for name in values}
        lines = [
            f'# TYPE {name.removesuffix("_total")} {kinds[name]}\n{name}{{engine="0"}} {value}.0'
            for name, value in values.items()
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _chat(self, request: web.Request) -> web.Response:
        await request.json()
        self.requests.append("chat")
        await self._be_stuck(request)
        text = self._next_answer()
        return web.json_response({"choices": [{"message": {"content": text}}]}, status=self.status)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("stream"):
            self.requests.append("completion")
            await self._be_stuck(request)
            return web.json_response({"choices": [{"text": self._next_answer()}]}, status=self.status)
        self.requests.append("stream")
        if self.status != 200:
            return web.Response(status=self.status, text="engine trouble")
        return await self._stream(request, int(body["max_tokens"]))

    async def _be_stuck(self, request: web.Request) -> None:
        """Until the client gives up."""
        while self.stuck and request.transport is not None:
            await asyncio.sleep(0.01)

    async def _stream(self, request: web.Request, tokens: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(tokens // self.tokens_per_chunk):
            if number == self.cut_after_chunks:
                return response
            await _send(response, {"choices": [{"text": "word " * self.tokens_per_chunk}]})
        await _send(response, {"choices": [], "usage": {"completion_tokens": tokens}})
        await response.write(b"data: [DONE]\n\n")
        self._account(tokens)
        return response

    def _account(self, tokens: int) -> None:
        self.generated += tokens + self.foreign_tokens
        if self.speculation and self.drafting:
            drafted = tokens // 2
            self.drafted += drafted
            self.accepted += round(drafted * self.acceptance)

    def _next_answer(self) -> str:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def _send(response: web.StreamResponse, event: dict[str, object]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())
