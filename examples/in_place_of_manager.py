"""What programs use `multiprocessing.Manager` for, and what would end with it: a fruit shop.

A dict with dicts and lists in it, a counter, a lock and a queue are arguments of the processes of a
`ProcessPoolExecutor`, and then of a `multiprocessing.Pool`. In the midst of it the process that
holds all that is killed. Run it by itself:

    python examples/in_place_of_manager.py [fork | spawn | forkserver]
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import udsbus

WORKERS = 3
STOCK = 1000
ORDERS = 300


def sell(
    shop: udsbus.Mapping, till: udsbus.Lock, sold: udsbus.Counter, fruit: str, to: str
) -> None:
    with till:
        shop[fruit]["left"] -= 1  # a read and a write, so nobody may come between
    shop[fruit]["buyers"].append(to)  # one step, like the next one
    sold += 1


def serve(
    shop: udsbus.Mapping, till: udsbus.Lock, sold: udsbus.Counter, orders: udsbus.Queue
) -> int:
    """What a process of the pool does until there are no more orders. Returns how many it had."""
    number = 0
    while (order := orders.get()) is not None:
        sell(shop, till, sold, *order)
        number += 1
    return number


def main() -> None:
    context = multiprocessing.get_context(*sys.argv[1:])
    with tempfile.TemporaryDirectory() as state, udsbus.LocalBroker(state=state) as broker:
        bus = broker.connect(name="shop")
        shop, till, sold = bus.mapping("shop"), bus.lock("till"), bus.counter("sold")
        for fruit in ("apples", "pears"):
            shop[fruit] = {"left": STOCK, "buyers": []}

        with ProcessPoolExecutor(WORKERS, context) as executor:
            customers = [f"customer {number}" for number in range(ORDERS)]
            futures = [executor.submit(sell, shop, till, sold, "apples", to) for to in customers]
        for future in futures:
            future.result()  # raises what `sell` has raised
        print(f"{sold.value} orders are done, by a ProcessPoolExecutor")

        orders = bus.queue("orders")
        with context.Pool(WORKERS) as pool:
            workers = pool.starmap_async(serve, [(shop, till, sold, orders)] * WORKERS, 1)
            for to in customers:
                orders.put(("pears", to))
            with bus.watch(sold.key, initial=True) as watch:
                changes = (change for change in watch if isinstance(change, udsbus.Change))
                next(change for change in changes if change.value >= 1.5 * ORDERS)
            while bus.info()["standby"] is None:
                time.sleep(0.01)
            print(f"process {broker.pid} holds all that; it is killed")
            os.kill(broker.pid, signal.SIGKILL)
            for number in range(ORDERS, 2 * ORDERS):
                orders.put(("pears", f"customer {number}"))
            for _ in range(WORKERS):
                orders.put(None)
            print(f"{sum(workers.get())} more, by a Pool; now process {broker.pid} holds it")

        for fruit, stock in shop.items():
            buyers = stock["buyers"].plain()
            to = f"{len(set(buyers))} customers"
            print(f"{fruit}: {stock['left']} of {STOCK} left, {len(buyers)} sold, to {to}")
        print(f"{sold.value} orders, none lost and none done twice")


if __name__ == "__main__":
    main()
