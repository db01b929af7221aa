"""A client, a server and its workers: who asks, who looks after them, and who does the work.

The server starts two workers, and another whenever one dies, until it is told to quit. Results come
back to the client; what workers log goes to stderr. Run it by itself:

    python examples/calling.py
"""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import wait

import udsbus

SPAWN = multiprocessing.get_context("spawn")
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


class Tasks:
    """What workers do. It knows nothing of the bus."""

    def echo(self, value: object) -> object:
        return value

    def calculate(self, text: str) -> int:
        logging.info("asked for %r", text)
        try:
            left, sign, right = text.split()
            operation = OPERATIONS[sign]
            return operation(int(left), int(right))
        except (ValueError, KeyError):
            raise ValueError(f"not a sum: {text!r}") from None

    def pid(self) -> int:
        return os.getpid()


def worker(address: str) -> None:
    logging.basicConfig(level=logging.INFO, format="worker %(process)d: %(message)s")
    with udsbus.connect(address, name="worker") as bus:
        bus.service("tasks", Tasks(), retry=1)  # all of it may be done twice
        bus.serve()  # until SIGTERM, and then to the end of the call in hand


def server(address: str, workers: int) -> None:
    logging.basicConfig(level=logging.INFO, format="server: %(message)s")

    def start() -> multiprocessing.process.BaseProcess:
        process = SPAWN.Process(target=worker, args=(address,))
        process.start()
        return process

    told, tell = SPAWN.Pipe(duplex=False)
    running = [start() for _ in range(workers)]
    with udsbus.connect(address, name="server") as bus:
        bus.service("server/quit", lambda: tell.send("quit"))
        while told not in (ready := wait([told, *(each.sentinel for each in running)])):
            for process in [each for each in running if each.sentinel in ready]:
                process.join()
                logging.info("worker %d has died (%d)", process.pid, process.exitcode)
                running.remove(process)
                running.append(start())
    for process in running:
        process.terminate()
    for process in running:
        process.join()
        logging.info("worker %d has ended (%d)", process.pid, process.exitcode)


def workers(bus: udsbus.Client) -> set[int]:
    return {each.pid for service in bus.services("tasks") for each in service.workers}


def wait_until(bus: udsbus.Client, condition: Callable[[], bool]) -> None:
    with bus.watch("$sys/workers/tasks/*", initial=True) as watch:
        for _ in watch:
            if condition():
                return


def talk(bus: udsbus.Client) -> None:
    wait_until(bus, lambda: len(workers(bus)) == 2)
    tasks = bus.service_proxy("tasks", timeout=20)

    print("echo:", tasks.echo({"hello": ("world", 1)}))
    print("calculate:", tasks.calculate("6 * 7"))
    wrong: dict[str, Callable[[], object]] = {
        "unknown task": lambda: tasks.fly("to the moon"),
        "wrong arguments": lambda: tasks.calculate(),
        "malformed input": lambda: tasks.calculate("6 times 7"),
        "what cannot be sent": lambda: tasks.echo(print),
    }
    for what, call in wrong.items():
        try:
            call()
        except Exception as error:
            print(f"{what}: {type(error).__name__}: {error}")

    first, second = tasks.pid(), tasks.pid()
    print(f"in turn: worker {first}, worker {second}")
    os.kill(first, signal.SIGKILL)
    print(f"worker {first} is killed; worker {tasks.pid()} answers")
    wait_until(bus, lambda: len(workers(bus) - {first}) == 2)
    print("in turn: worker {}, worker {}".format(*(tasks.pid() for _ in range(2))))


def main() -> None:
    with udsbus.LocalBroker() as broker, broker.connect(name="client") as bus:
        process = SPAWN.Process(target=server, args=(broker.address, 2))
        process.start()
        try:
            talk(bus)
        finally:
            bus.call("server/quit")
            process.join()
        print(f"quit: the server has ended ({process.exitcode}), and serves {bus.services()}")


if __name__ == "__main__":
    main()
