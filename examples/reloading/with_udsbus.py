"""Configuration that reloads while workers run: with udsbus.

A process, a thread and a coroutine have the same few lines. Run it by itself:

    python examples/reloading/with_udsbus.py
"""

import asyncio
import dataclasses
import multiprocessing
import threading
import time

import udsbus


@dataclasses.dataclass
class Config:
    colour: str
    size: int = 1


def work(who, address):
    with udsbus.connect(address) as client:
        config = client.bind("config/app", into=Config)
        while not client.exists("end"):
            settings = config.value  # the same for the whole task
            time.sleep(0.01)
            client.publish("done", (who, settings.colour))


async def work_in_loop(who, address):
    async with (
        udsbus.connect_async(address) as client,
        client.bind("config/app", into=Config) as config,
    ):
        while not await client.exists("end"):
            settings = config.value
            await asyncio.sleep(0.01)
            await client.publish("done", (who, settings.colour))


def main():
    with udsbus.LocalBroker() as broker:
        updater = broker.connect()
        done = updater.subscribe("done")

        def until_all_have(colour):
            """Until each has done a task with it."""
            missing = {"process", "thread", "coroutine"}
            while missing:
                who, with_colour = done.get().value
                if with_colour == colour and who in missing:
                    print(f"{who}: {colour}")
                    missing.discard(who)

        updater.set("config/app", {"colour": "red"})
        in_loop = work_in_loop("coroutine", broker.address)
        workers = [
            multiprocessing.Process(target=work, args=("process", broker.address)),
            threading.Thread(target=work, args=("thread", broker.address)),
            threading.Thread(target=asyncio.run, args=(in_loop,)),
        ]
        for worker in workers:
            worker.start()
        until_all_have("red")
        updater.set("config/app", {"colour": "green"})
        until_all_have("green")
        updater.set("config/app", {"colour": "blue", "size": "huge"})  # refused, and logged
        updater.set("config/app", {"colour": "yellow"})
        until_all_have("yellow")
        updater.set("end", True)
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
