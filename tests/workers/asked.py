"""A program that is asked over its stdin, as in any language: it knows nothing of udsbus.

Echo, calculate, unknown tasks, malformed answers, quit: scenario 3.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

kept: list[bytes] = []


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
        case "begin":
            print("begun", file=sys.stderr, flush=True)
            time.sleep(args[0])
            if len(args) > 1:
                return str(args[1])
            result = "slept"
        case "text":  # whatever is to be said instead of an answer
            return str(args[0])
        case "too much":
            return "x" * (66 * 2**20)
        case "unfinished":
            print(json.dumps({"id": request["id"]})[:8], end="", flush=True)
            time.sleep(60)
            result = None
        case "close":
            os.close(args[0])
            time.sleep(60)
            result = None
        case "answer and close":
            print(json.dumps({"id": request["id"], "result": None}), flush=True)
            os.close(args[0])
            time.sleep(60)
            result = None
        case "leave a child":  # which has its stdout
            subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
            if args[0]:
                print(json.dumps({"id": request["id"], "result": "last"}), flush=True)
            sys.exit(3)
        case "kill":
            os.kill(os.getpid(), args[0])
            result = None
        case "keep":
            kept.append(b"x" * args[0])
            result = None
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
    if len(sys.argv) > 2:  # where it saves what it has, and how long that takes
        print("saving\n" * 50_000, flush=True)
        time.sleep(float(sys.argv[2]))
        with open(sys.argv[1], "w") as file:
            file.write("saved")


if __name__ == "__main__":
    main()
