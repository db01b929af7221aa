"""Two processes share state: the example of the README."""

import multiprocessing

import udsbus


def worker(address: str) -> None:
    client = udsbus.connect(address, name="worker")
    with client.watch("config/**", initial=True) as watch:
        for change in watch:
            if isinstance(change, udsbus.CaughtUp):
                continue  # all that was there has been told; from now on it is changes
            print(f"worker: {change.key} is now {change.value!r}")
            client.increment("seen")
            if change.value == "stop":
                return


if __name__ == "__main__":
    with udsbus.LocalBroker() as broker, broker.connect() as client:
        client.set("config/colour", "green")
        process = multiprocessing.Process(target=worker, args=(broker.address,))
        process.start()
        client.set("config/limits", {"requests": 100, "window": (1, "minute")})
        client.set("config/mode", "stop")
        process.join()
        print("changes that the worker has seen:", client.get("seen"))
