"""The same with a `multiprocessing.Event` for each worker, and a shared array for the value.

One event for all would not do: whoever clears it takes it from the others. And they can only be
handed to workers when these are started. Threads need `threading.Event`, coroutines a third kind.
"""

import ctypes
import json
import multiprocessing
import time

ROOM = 1000


def read(shared):
    with shared.get_lock():
        return json.loads(shared.value)


def work(who, changed, ended, shared, done):
    settings = read(shared)
    while not ended.is_set():
        if changed.is_set():
            changed.clear()  # before it is read, or a change in between is lost
            settings = read(shared)
        time.sleep(0.01)
        done.put((who, settings["colour"]))


def write(shared, settings, events):
    data = json.dumps(settings).encode()
    if len(data) >= ROOM:
        raise ValueError("no room")
    with shared.get_lock():
        shared.value = data
    for event in events:
        event.set()


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
    shared = multiprocessing.Array(ctypes.c_char, ROOM)
    ended = multiprocessing.Event()
    events, workers = [], []
    write(shared, {"colour": "red"}, events)
    for who in ("process 1", "process 2"):
        events.append(multiprocessing.Event())
        of_worker = (who, events[-1], ended, shared, done)
        worker = multiprocessing.Process(target=work, args=of_worker)
        worker.start()
        workers.append(worker)
    until_all_have("red", done)
    write(shared, {"colour": "green"}, events)
    until_all_have("green", done)
    ended.set()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
