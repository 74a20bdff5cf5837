"""Runs a cell in a person's lab, as JupyterLab does: over Jupyter's REST API and the kernel's websocket."""

from __future__ import annotations

import asyncio
import json
import uuid

import requests
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.support.hub import HubProcess


def run_cell(hub: HubProcess, user: str, token: str, code: str) -> None:
    """Start a kernel, have it begin to run a cell, and go away; the cell runs on.

    Args:
        hub: a running hub.
        user: whose default lab.
        token: of that person.
        code: the cell.
    """
    base = f"{hub.url}/user/{user}/api/kernels"
    headers = {"Authorization": f"token {token}"}
    made = requests.post(base, headers=headers, json={"name": "python3"}, timeout=60)
    assert made.status_code == 201, made.text
    asyncio.run(_execute(f"{base}/{made.json()['id']}/channels".replace("http", "ws", 1), headers, code))


async def _execute(url: str, headers: dict[str, str], code: str) -> None:
    socket = await websocket_connect(HTTPRequest(url, headers=headers, connect_timeout=30))
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": uuid.uuid4().hex,
              "version": "5.3", "date": "2026-01-01T00:00:00Z"}  # fmt: skip
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
    await socket.write_message(json.dumps(message))
    while True:
        told = await asyncio.wait_for(socket.read_message(), 60)
        assert told is not None, "the kernel's connection was closed"
        answer = json.loads(told)
        mine = answer["parent_header"].get("msg_id") == header["msg_id"]
        if mine and answer["msg_type"] == "status" and answer["content"]["execution_state"] == "busy":
            break
    socket.close()
