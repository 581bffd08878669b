"""A stub of vLLM's HTTP server, for behaviour that a real engine does not show on demand.

It speaks the OpenAI streaming protocol and vLLM's metrics, decodes in steps like an engine with an MTP head, and does
what its traits say. Chance comes from a seed, time from the event loop's clock. The real vLLM is the engine of the
end-to-end tests.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import web

from engine_stub.chat import Reply, reply_to
from engine_stub.counters import Counters
from engine_stub.traits import Traits

Script = Callable[[Traits], None]
"""Changes the traits to one misbehaviour. Scripts compose: they are applied one after the other."""

Death = Callable[[Traits], None]

PROMPT_TOKENS = 12
STEP_TOKENS = 2048
"""Tokens of prompts that vLLM reads in one step by default."""
SHORT_PROMPT = 64
LEAKED_AT = 20
"""The token of a stream after which a special one leaks."""
TALE = (
    "the old keeper of the lighthouse wrote down each ship that passed his rock at night and what it had on board so "
    "that nobody who waited on land for a sail had to wonder long whether wind or fog or plain bad luck had held it up"
)
STORY = TALE.split()
"""The text that it decodes, repeated from its beginning."""
FOREVER = 1e9


class EngineStub:
    """One engine. `traits` may be changed before or while it runs; `play` applies scripts to them."""

    def __init__(self, *scripts: Script, seed: int = 0, on_death: Death | None = None) -> None:
        self.traits = Traits()
        self.counters = Counters()
        self.requests: list[str] = []
        self.longest_prompt = 0
        """Tokens of the longest prompt that was sent."""
        self.running = 0
        """Clients' requests in progress."""
        self.on_death = on_death
        self._random = random.Random(seed)
        self._dead = False
        self._began = 0.0
        self._others = 0
        self._page: str | None = None
        self._stepped_seconds = self._late_seconds = 0.0
        self._was_reset = False
        self._hiccuped = self._is_stuck = False
        self._reads_until = 0.0
        """When the step that reads a part of a prompt ends. All streams wait for it."""
        self._compiling: asyncio.Task[None] | None = None
        self.play(*scripts)

    def play(self, *scripts: Script) -> "EngineStub":
        for script in scripts:
            script(self.traits)
        return self

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.post("/tokenize", self._tokenize),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        app.cleanup_ctx.append(self._life)
        return app

    def count(self, kind: str) -> int:
        return self.requests.count(kind)

    @property
    def up_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def _life(self, _app: web.Application) -> AsyncIterator[None]:
        self._began = asyncio.get_running_loop().time()
        others = asyncio.create_task(self._serve_others())
        yield
        others.cancel()

    async def _serve_others(self) -> None:
        """Simulate requests of other clients, at random times and with random durations."""
        while True:
            traits = self.traits
            if traits.foreign_pause is None or self.up_seconds > (traits.foreign_until or FOREVER):
                await asyncio.sleep(0.2)
                continue
            await asyncio.sleep(self._random.expovariate(1 / traits.foreign_pause))
            until = self.up_seconds + self._random.expovariate(1 / traits.foreign_seconds)
            self._others += 1
            while self.up_seconds < until:
                self._account(self._step_tokens(), seconds=await self._step())
            self._others -= 1
            self.counters.finished += 1

    async def _health(self, request: web.Request) -> web.Response:
        traits = self.traits
        self._reset_at_random(request)
        loading = traits.hangs_at_load or self.up_seconds < traits.load_seconds
        if traits.dies_at_load and self.up_seconds >= traits.load_seconds:
            self._die()
        return web.Response(status=200 if traits.healthy and not loading and not self._dead else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        traits = self.traits
        self._reset_at_random(request)
        if not traits.metrics:
            return web.Response(status=404)
        page = self.counters.page(traits, running=self.running + self._others + traits.running + traits.abandoned)
        if traits.counters_freeze:
            page = self._page = self._page or page
        self.counters.generated += traits.tokens_while_stuck
        return web.Response(text=page)

    async def _tokenize(self, request: web.Request) -> web.Response:
        """One token for each word."""
        body = await request.json()
        if not self.traits.tokenizes:
            return web.Response(status=404)
        tokens = list(range(len(body["prompt"].split())))
        return web.json_response({"count": len(tokens), "tokens": tokens})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append("chat")
        if "chat_template_kwargs" in body and not self.traits.takes_template_arguments:
            return web.Response(status=400, text="chat_template is not supported for Mistral tokenizers")
        if self.traits.refuses in body:
            return web.Response(status=400, text=f"{self.traits.refuses} is not supported")
        prompt = _prompt_tokens(body["messages"][-1]["content"])
        reply = await self._answer(request, prompt, partial(reply_to, body, self.traits))
        return web.json_response(reply.to_json(), status=self._status())

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("stream"):
            self.requests.append("completion")
            prompt = _prompt_tokens(body["prompt"])
            reply = await self._answer(request, prompt, partial(reply_to, _as_chat(body), self.traits))
            answer = {"choices": [{"text": reply.message["content"]}], "usage": _usage(int(body["max_tokens"]), prompt)}
            return web.json_response(answer, status=self._status())
        self.requests.append("stream")
        status = self._status()
        if status != 200:
            return web.Response(status=status, text="engine trouble")
        prompt = _prompt_tokens(body["prompt"])
        self.longest_prompt = max(self.longest_prompt, prompt)
        return await self._stream(request, int(body["max_tokens"]), prompt)

    async def _answer(self, request: web.Request, prompt: int, answer: Callable[..., Reply]) -> Reply:
        self._reset_at_random(request)
        async with self._on_it():
            while self.traits.stuck and request.transport is not None:
                await asyncio.sleep(0.01)
            await self._read_prompt(prompt)
            await self._hang()
            reply = answer(is_concurrent=self.running > 1)
            done = 1
            self._account(1, prompt=prompt)
            while done < reply.tokens:
                seconds = await self._step(prompt)
                await self._hang()
                tokens = min(self._step_tokens(), reply.tokens - done)
                self._account(tokens, seconds=seconds)
                done += tokens
        return reply

    async def _stream(self, request: web.Request, wanted: int, prompt: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = chunks = 0
        resets_at = self._random.randint(1, wanted) if self._by_chance(self.traits.reset_share / 2) else None
        async with self._on_it():
            asked = self.up_seconds
            await self._read_prompt(prompt)
            self.counters.first_token_seconds += self.up_seconds - asked
            async for tokens in self._decode(wanted, prompt):
                if self._dead:
                    _abort(request)
                if chunks == self.traits.cut_after_chunks:
                    return response
                chunks, sent = chunks + 1, sent + tokens
                await _send(response, self._chunk(tokens, sent, prompt))
                if resets_at is not None and sent >= resets_at:
                    _abort(request)
        await _send(response, {"choices": [], "usage": _usage(wanted, prompt)})
        await response.write(b"data: [DONE]\n\n")
        self.counters.generated += self.traits.foreign_tokens
        return response

    def _chunk(self, tokens: int, sent: int, prompt_tokens: int) -> dict[str, Any]:
        text = self.traits.text_when_concurrent if self.running > 1 else None
        at_depth = self.traits.text_at_depth if prompt_tokens > SHORT_PROMPT else None
        text = text or at_depth or self.traits.text
        words = [text or STORY[number % len(STORY)] for number in range(sent - tokens, sent)]
        if self.traits.leaked_token and sent - tokens < LEAKED_AT <= sent:
            words.append(self.traits.leaked_token)
        event: dict[str, Any] = {"choices": [{"text": "".join(f"{word} " for word in words)}]}
        return {**event, "usage": _usage(sent, prompt_tokens)} if self.traits.usage_in_chunks else event

    async def _decode(self, wanted: int, prompt: int) -> AsyncIterator[int]:
        """The tokens of each chunk. The first token comes alone, the others with the accepted drafts."""
        done = gathered = 0
        while done < wanted:
            seconds = await self._step(prompt) if done else None
            await self._hang()
            tokens = min(self._step_tokens() if done else 1, wanted - done)
            self._account(tokens, prompt=0 if done else prompt, seconds=seconds)
            done, gathered = done + tokens, gathered + tokens
            if gathered >= self.traits.tokens_per_chunk or done == wanted:
                yield gathered
                gathered = 0

    async def _read_prompt(self, tokens: int) -> None:
        """Chunk by chunk, like chunked prefill: until the end only the KV cache grows."""
        await self._compile()
        seconds = self.traits.first_token_seconds
        if tokens > SHORT_PROMPT and self.traits.prefill_tokens_per_second:
            seconds += tokens / self.traits.prefill_tokens_per_second
        pieces = max(1, round(seconds))
        for _ in range(pieces):
            await self._hang()
            await asyncio.sleep(seconds / pieces)
            self.counters.kv_cache += 1e-3
        rate = self.traits.prompt_tokens_per_second
        while rate and tokens > 0:
            await asyncio.sleep(max(0.0, self._reads_until - self.up_seconds))
            step = min(tokens, STEP_TOKENS) / rate
            self._reads_until = self.up_seconds + step
            await asyncio.sleep(step)
            self.counters.kv_cache += 1e-3
            tokens -= STEP_TOKENS

    async def _compile(self) -> None:
        """The first request waits for kernels to be compiled. That goes on if its client leaves."""
        if self._compiling is None:
            self._compiling = asyncio.create_task(asyncio.sleep(self.traits.compile_seconds))
        await asyncio.shield(self._compiling)

    @property
    def compiles(self) -> bool:
        return self._compiling is not None and not self._compiling.done()

    async def _step(self, prompt: int = PROMPT_TOKENS) -> float:
        """One decode step of one stream, with the duration that the traits give. Returns the seconds that it took.

        `prompt`: tokens of the stream's prompt.
        """
        seconds = self._step_seconds() * (self.traits.depth_slow_down if prompt > SHORT_PROMPT else 1.0)
        if self.traits.prompt_tokens_per_second:
            # A step that reads a part of a prompt is one of all streams, and a long one.
            seconds = max(seconds, self._reads_until - self.up_seconds)
        if seconds:
            began = self.up_seconds
            await asyncio.sleep(seconds)
            self._stepped_seconds += seconds
            self._late_seconds += self.up_seconds - began - seconds
        return seconds

    @property
    def late_share(self) -> float:
        """The share by which its steps took longer than planned, because this machine was busy."""
        return self._late_seconds / self._stepped_seconds if self._stepped_seconds else 0.0

    def _step_seconds(self) -> float:
        traits = self.traits
        seconds = traits.step_seconds * (1 + traits.concurrency_cost * max(0, self.running + self._others - 1))
        if self.up_seconds >= traits.slow_down_after:
            seconds *= traits.slow_down
        if traits.jitter:
            seconds *= self._random.lognormvariate(0, traits.jitter)
        if not self._hiccuped and self.counters.generated >= (traits.hiccup_after_tokens or FOREVER):
            self._hiccuped = True
            seconds += traits.hiccup_seconds
        return seconds + (traits.stall_seconds if self._by_chance(traits.stall_share) else 0)

    def _step_tokens(self) -> int:
        traits = self.traits
        if not (traits.speculation and traits.drafting):
            return 1
        chances = _chances(traits)
        accepted = 0
        while accepted < len(chances) and self._by_chance(chances[accepted]):
            accepted += 1
        self.counters.draft(len(chances), accepted)
        return 1 + accepted

    def _account(self, tokens: int, *, prompt: int = 0, seconds: float | None = None) -> None:
        """The output of a step arrives: as in vLLM, all counters move together then.

        `prompt`: its tokens, for the first output. `seconds`: since the output before, for the others.
        """
        counters, before = self.counters, self.counters.generated
        counters.generated += tokens
        counters.processed += tokens + prompt
        counters.steps += 1
        counters.kv_cache += 1e-6
        if prompt:
            counters.first_tokens += 1
            counters.prompts += prompt
        if seconds is not None:
            counters.observe_interval(seconds)
        self._wear(before)

    def _wear(self, before: int) -> None:
        """Apply the traits that take effect after a number of generated tokens."""
        traits, after = self.traits, self.counters.generated
        leaked = traits.leaked_bytes_per_token * after
        if after >= (traits.dies_after_tokens or FOREVER) or leaked > traits.memory_bytes:
            self._die()
        if not self._was_reset and before < (traits.reset_after_tokens or FOREVER) <= after:
            self._was_reset = not traits.resets_every_time
            self.counters.reset()

    async def _hang(self) -> None:
        while self._is_stuck or self.counters.generated >= (self.traits.hang_after_tokens or FOREVER):
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _on_it(self) -> AsyncIterator[None]:
        self.running += 1
        if self.running >= (self.traits.dies_of_streams or FOREVER):
            self._die()
        try:
            yield
        finally:
            self.running -= 1
            self._is_stuck = self._is_stuck or self.running == self.traits.hangs_when_left
            self.counters.finished += 1

    def _die(self) -> None:
        if not self._dead:
            self._dead = True
            if self.on_death:
                self.on_death(self.traits)

    def _status(self) -> int:
        return 500 if self._dead or self._by_chance(self.traits.error_share) else self.traits.status

    def _reset_at_random(self, request: web.Request) -> None:
        if self._by_chance(self.traits.reset_share / 2):
            _abort(request)

    def _by_chance(self, share: float) -> bool:
        return share >= 1 or (share > 0 and self._random.random() < share)


def _prompt_tokens(prompt: str | list[int]) -> int:
    """Tokens are given, or a word is one. The chat template adds some."""
    return max(PROMPT_TOKENS, len(prompt.split() if isinstance(prompt, str) else prompt))


def _as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """A completion's prompt is no chat, so there is nothing to think about."""
    return {**body, "messages": [{"content": body["prompt"]}], "chat_template_kwargs": {"thinking": False}}


def _chances(traits: Traits) -> list[float]:
    """The chance of each drafted token, if all before it were accepted."""
    shares = traits.acceptance_by_position
    if not shares:
        return [traits.acceptance] * traits.draft_tokens
    return [share / before if before else 0.0 for before, share in zip((1.0, *shares), shares, strict=False)]


def _abort(request: web.Request) -> None:
    """Reset the connection, as a dying proxy does: no answer, or one without an end."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("reset by a script")


def _usage(tokens: int, prompt_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}


async def _send(response: web.StreamResponse, event: dict[str, object]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())
