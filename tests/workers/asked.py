"""A program that is asked over its stdin, as in any language: it knows nothing of udsbus.

Echo, calculate, unknown tasks, malformed answers, quit: scenario 3.
"""

from __future__ import annotations

import json
import os
import sys
import time


def answer(request: dict[str, object]) -> str | None:
    method, args = request["method"], request["args"]
    assert isinstance(args, list)
    result: object
    match method:
        case "echo":
            result = args[0]
        case "add":
            result = sum(args)
        case "named":
            result = request["kwargs"]
        case "stray":
            return "stray print\n"
        case "late":
            print("before", flush=True)
            result = args[0]
        case "other":
            return json.dumps({"id": -1, "result": 1}) + "\n"
        case "empty":
            return json.dumps({"id": request["id"]}) + "\n"
        case "after":
            return json.dumps({"id": request["id"], "result": 1}) + "\nstray\n"
        case "sleep":
            time.sleep(args[0])
            result = "slept"
        case "log":
            print(args[0], file=sys.stderr, flush=True)
            result = None
        case "pid":
            result = os.getpid()
        case "bye":
            print(json.dumps({"id": request["id"], "result": "bye"}), flush=True)
            sys.exit(0)
        case "quit":
            sys.exit(args[0])
        case _:
            return json.dumps({"id": request["id"], "error": f"unknown task {method}"}) + "\n"
    return json.dumps({"id": request["id"], "result": result}) + "\n"


def main() -> None:
    for line in sys.stdin:
        text = answer(json.loads(line))
        if text is not None:
            sys.stdout.write(text)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
