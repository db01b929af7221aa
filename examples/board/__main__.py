"""A board on which people vote and talk, served by four workers. From a checkout of udsbus:

    pip install -e ".[examples]"
    python -m examples.board [PORT]

Open the address that it tells in some browser windows, and kill workers.
"""

from __future__ import annotations

import sys

import uvicorn


def main() -> None:
    uvicorn.run(
        "examples.board.app:app",
        port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000,
        workers=4,
        timeout_graceful_shutdown=5,  # else a browser that reads nothing keeps its worker
    )


if __name__ == "__main__":
    main()
