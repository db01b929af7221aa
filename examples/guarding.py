"""Two processes that guard each other, and a program that does not notice.

A worker counts; every number that it was told is one more than the one before. Meanwhile the broker
is killed, then its standby, then the broker is stopped so that it hangs. Run it by itself:

    python examples/guarding.py
"""

import multiprocessing
import os
import signal
import tempfile
import time

import udsbus


def count(address: str) -> None:
    with udsbus.connect(address, name="worker") as bus:
        last, longest, before = 0, 0.0, time.monotonic()
        while not bus.exists("enough"):
            number = bus.increment("count")
            now = time.monotonic()
            longest, before = max(longest, now - before), now
            assert number == last + 1, f"{number} came after {last}"
            last = number
        bus.set("report", (last, longest))


def ready_standby(bus: udsbus.Client) -> int:
    while (standby := bus.info()["standby"]) is None:
        time.sleep(0.01)
    return int(standby)


def main() -> None:
    with tempfile.TemporaryDirectory() as state, udsbus.LocalBroker(state=state) as broker:
        bus = broker.connect(name="main")
        worker = multiprocessing.get_context("spawn").Process(target=count, args=(broker.address,))
        worker.start()
        while not bus.exists("count"):
            time.sleep(0.01)

        ready_standby(bus)
        print(f"the broker is process {broker.pid}; it is killed")
        os.kill(broker.pid, signal.SIGKILL)
        print(f"counted on to {bus.get('count')}; now process {broker.pid} serves")

        standby = ready_standby(bus)
        print(f"its standby, process {standby}, is killed")
        os.kill(standby, signal.SIGKILL)
        while bus.info()["standby"] in (standby, None):
            time.sleep(0.01)
        print(f"counted on to {bus.get('count')}; there is another standby")

        print(f"the broker, process {broker.pid}, is stopped: it hangs")
        os.kill(broker.pid, signal.SIGSTOP)
        bus.ping()  # waits for who takes over; a read might be answered from memory
        print(f"counted on to {bus.get('count')}; now process {broker.pid} serves")

        bus.set("enough", True)
        worker.join()
        last, longest = bus.get("report")
        print(f"{last} numbers, none lost and none twice; the longest wait was {longest:.3f} s")


if __name__ == "__main__":
    main()
