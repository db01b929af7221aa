"""The same with a `multiprocessing.Queue` for each worker, which every change is put into.

A worker that is started again gets the queue of the one before it, which may be locked for ever if
that one was killed while it read. Threads need `queue.Queue`, coroutines `asyncio.Queue`.
"""

import multiprocessing
import queue
import time


def work(who, changes, done):
    settings = changes.get()
    while True:
        try:
            while True:  # only the newest matters
                settings = changes.get_nowait()
        except queue.Empty:
            pass
        if settings is None:
            return
        time.sleep(0.01)
        done.put((who, settings["colour"]))


def until_all_have(colour, done):
    """Until each has done a task with it."""
    missing = {"process 1", "process 2"}
    while missing:
        who, with_colour = done.get()
        if with_colour == colour and who in missing:
            print(f"{who}: {colour}", flush=True)
            missing.discard(who)


def main():
    done = multiprocessing.SimpleQueue()
    queues, workers = [], []
    for who in ("process 1", "process 2"):
        queues.append(multiprocessing.Queue())
        queues[-1].put({"colour": "red"})
        worker = multiprocessing.Process(target=work, args=(who, queues[-1], done))
        worker.start()
        workers.append(worker)
    until_all_have("red", done)
    for changes in queues:
        changes.put({"colour": "green"})
    until_all_have("green", done)
    for changes in queues:
        changes.put(None)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
