"""The web application of the board, for any number of workers:

    uvicorn examples.board.app:app --workers 4 --timeout-graceful-shutdown 5

The bus is the one that `UDSBUS_SOCKET` names, else this user's default bus; the first worker starts
a broker if there is none. A visitor's page connects to `/board?name=ann`, sends what she wants
(`Board.act`) and is sent what is new (`Visit.news`). When her connection ends, for whatever reason,
it connects again, to whichever worker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import udsbus

from .board import Board, Visit

PAGE = Path(__file__).with_name("page.html")


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Of one worker: its client and its view of the board, which its visitors share."""
    async with (
        udsbus.connect_async(name="board", autostart=True) as bus,
        anyio.create_task_group() as tasks,
    ):
        board = Board(bus)
        await tasks.start(or_end, board.follow_state)
        await tasks.start(or_end, board.follow_lines)
        yield {"board": board}
        tasks.cancel_scope.cancel()


async def or_end(follow: Callable[..., Awaitable[None]], *, task_status: Any) -> None:
    """A worker that cannot follow the board is of no use. It ends, and uvicorn starts another."""
    try:
        await follow(task_status=task_status)
    except Exception:
        logging.getLogger("uvicorn.error").exception("this worker cannot follow the board")
        signal.raise_signal(signal.SIGTERM)


async def page(request: Request) -> FileResponse:
    return FileResponse(PAGE)


async def serve_visitor(websocket: WebSocket) -> None:
    """One connection, from its beginning to its end."""
    await websocket.accept()
    name = websocket.query_params.get("name", "")
    if not re.fullmatch(r"\w{1,30}", name):
        await websocket.close(1008, "connect to /board?name=NAME")
        return
    board: Board = websocket.state.board
    async with board.visit(name) as visit, anyio.create_task_group() as tasks:
        tasks.start_soon(send_news, websocket, visit)
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            await board.act(name, visit, message.get("text") or "")
        tasks.cancel_scope.cancel()


async def send_news(websocket: WebSocket, visit: Visit) -> None:
    with contextlib.suppress(WebSocketDisconnect):  # whoever receives is told as well
        while (news := await visit.news()) is not None:
            # What the bus holds and JSON does not, a date or bytes, is shown as a text.
            await websocket.send_text(json.dumps(news, default=str, skipkeys=True))
        await websocket.close(1012, "come again")


app = Starlette(
    routes=[Route("/", page), WebSocketRoute("/board", serve_visitor)],
    lifespan=lifespan,
)
