"""A model on loopback that calibrates: it speaks the Anthropic, OpenAI Responses and Gemini protocols, streamed.

It chooses its next tool call from what the client shows it of the last results, as a model would: ``catalog``,
``start_run``, ``status`` until the run has ended, ``report``. Everything that it was sent is kept for the test.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RUN_ID = re.compile(r"\d{8}T\d{6}Z_[\w.-]+")
ENDED = ("finished", "failed", "lost", "stopped", "halted", "exhausted")
DONE = "The report is written."
MOST_CALLS = 40


@dataclass
class Call:
    """A tool call of the model; ``result`` is what the client showed it of the answer."""

    tool: str
    arguments: dict[str, Any]
    result: str = ""


@dataclass
class Brain:
    """What the model knows: the tools that it is offered, by short name, and its calls."""

    tools: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def next(self, results: list[str]) -> Call | None:
        """The next call, after the results of all calls so far; None when the work is done."""
        for call, result in zip(self.calls, results, strict=False):
            call.result = result
        last = self.calls[-1] if self.calls else None
        if last is None:
            return self._call("catalog", model="toy")
        if len(self.calls) >= MOST_CALLS or last.tool == "report":
            return None
        if last.tool == "catalog":
            return self._call("start_run", model="toy", repeats=2)
        found = RUN_ID.search("".join(call.result for call in self.calls if call.tool == "start_run"))
        if found is None:
            return None
        over = last.tool == "status" and re.search(rf'(state"?: ?"?|unchanged · )({"|".join(ENDED)})', last.result)
        return self._call("report", run_id=found[0]) if over else self._call("status", run_id=found[0], wait_s=20)

    def _call(self, tool: str, **arguments: Any) -> Call:
        call = Call(tool, arguments)
        self.calls.append(call)
        return call

    def offered(self, names: list[str]) -> None:
        """Take note of tools by the names that the client gave them (``mcp__tune__catalog``, ``mcp_tune_catalog``)."""
        for name in names:
            short = re.sub(r"^(mcp)?_*tune_+", "", name.removeprefix("mcp"))
            self.tools[short.lstrip("_")] = name


def text_of(value: Any) -> str:
    """Every string of a result, however the client wraps it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(text_of(one) for one in value)
    if isinstance(value, dict):
        return value["text"] if isinstance(value.get("text"), str) else json.dumps(value, ensure_ascii=False)
    return str(value)


Events = list[tuple[str, dict[str, Any]]]


def anthropic(brain: Brain, body: dict[str, Any]) -> Events:
    """``POST /v1/messages``."""
    brain.offered([tool["name"] for tool in body.get("tools", []) if "tune" in tool["name"]])
    results = [
        text_of(block.get("content", ""))
        for message in body["messages"] if isinstance(message["content"], list)
        for block in message["content"] if block.get("type") == "tool_result"
    ]  # fmt: skip
    call = brain.next(results) if brain.tools else None
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "content": [], "usage": usage,
               "stop_reason": None, "stop_sequence": None}  # fmt: skip
    block: dict[str, Any] = {"type": "text", "text": ""}
    delta: dict[str, Any] = {"type": "text_delta", "text": DONE}
    if call is not None:
        block = {"type": "tool_use", "id": f"t{len(brain.calls)}", "name": brain.tools[call.tool], "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(call.arguments)}
    stop = {"stop_reason": "end_turn" if call is None else "tool_use", "stop_sequence": None}
    return [
        ("message_start", {"type": "message_start", "message": message}),
        ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": block}),
        ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        ("message_delta", {"type": "message_delta", "delta": stop, "usage": usage}),
        ("message_stop", {"type": "message_stop"}),
    ]


def responses(brain: Brain, body: dict[str, Any]) -> Events:
    """``POST /v1/responses``."""
    spaces: dict[str, str] = {}
    for tool in body.get("tools", []):
        for inner in tool.get("tools", []):
            spaces[inner["name"]] = tool.get("name", "")
            if "tune" in tool.get("name", ""):
                brain.offered([inner["name"]])
        if "tune" in tool.get("name", "") and not tool.get("tools"):
            brain.offered([tool["name"]])
    results = [text_of(item["output"]) for item in body["input"] if item.get("type") == "function_call_output"]
    call = brain.next(results) if brain.tools else None
    item: dict[str, Any] = {"type": "message", "role": "assistant", "id": "m", "status": "completed",
                            "content": [{"type": "output_text", "text": DONE, "annotations": []}]}  # fmt: skip
    if call is not None:
        name, number = brain.tools[call.tool], len(brain.calls)
        item = {"type": "function_call", "id": f"f{number}", "call_id": f"c{number}", "name": name,
                "arguments": json.dumps(call.arguments), "status": "completed"}  # fmt: skip
        if name in spaces:
            item["namespace"] = spaces[name]
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, "input_tokens_details": {"cached_tokens": 0},
             "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
    done = {"id": "r", "object": "response", "status": "completed", "output": [item], "usage": usage}
    return [
        ("response.created", {"type": "response.created", "response": {"id": "r", "status": "in_progress"}}),
        ("response.output_item.done", {"type": "response.output_item.done", "output_index": 0, "item": item}),
        ("response.completed", {"type": "response.completed", "response": done}),
    ]


def gemini(brain: Brain, body: dict[str, Any]) -> Events:
    """``POST /v1beta/models/M:streamGenerateContent``."""
    declared = [one["name"] for tool in body.get("tools", []) for one in tool.get("functionDeclarations", [])]
    brain.offered([name for name in declared if "tune" in name])
    results = [
        text_of(part["functionResponse"].get("response", ""))
        for content in body["contents"] for part in content.get("parts", []) if "functionResponse" in part
    ]  # fmt: skip
    call = brain.next(results) if brain.tools else None
    part: dict[str, Any] = {"text": DONE}
    if call is not None:
        part = {"functionCall": {"name": brain.tools[call.tool], "args": call.arguments}}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return [("", {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "stand-in"})]


PROTOCOLS: tuple[tuple[str, Callable[[Brain, dict[str, Any]], Events]], ...] = (
    ("/messages", anthropic), ("/responses", responses), ("enerateContent", gemini),
)  # fmt: skip


@contextmanager
def stand_in() -> Iterator[tuple[str, Brain]]:
    """The address, and what the model did there."""
    brain, lock = Brain(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
            path = self.path.partition("?")[0]
            answer = next((answer for end, answer in PROTOCOLS if path.endswith(end)), None)
            with lock:
                brain.requests.append({"path": self.path, **body})
                events = answer(brain, body) if answer else []
            if answer is None:
                self._send(b'{"input_tokens": 1, "totalTokens": 1}', "application/json")
            elif body.get("stream") or "stream" in path:
                lines = (f"event: {kind}\n" * bool(kind) + f"data: {json.dumps(data)}\n\n" for kind, data in events)
                self._send("".join(lines).encode(), "text/event-stream")
            else:
                self._send(json.dumps(events[-1][1]).encode(), "application/json")

        def do_GET(self) -> None:
            self._send(b'{"data": [], "models": []}', "application/json")

        def _send(self, data: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Quiet: the test prints what it needs."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", brain
    finally:
        server.shutdown()
        server.server_close()
