"""The same with signals: the updater writes a file and sends SIGHUP; SIGCHLD starts again who died.

Processes only: a signal is for a process, and its handler runs in the main thread.
"""

import json
import multiprocessing
import os
import signal
import tempfile
import time


def work(who, path, done):
    changed = ended = False

    def on_hup(number, frame):
        nonlocal changed
        changed = True  # not here: the handler may run in the middle of anything

    def on_term(number, frame):
        nonlocal ended
        ended = True

    signal.signal(signal.SIGHUP, on_hup)
    signal.signal(signal.SIGTERM, on_term)
    with open(path) as file:
        settings = json.load(file)
    while not ended:
        time.sleep(0.01)
        done.put((who, settings["colour"]))
        if changed:
            changed = False  # before the file is read: the next signal may come meanwhile
            with open(path) as file:
                settings = json.load(file)


def write(path, settings):
    with open(f"{path}.new", "w") as file:
        json.dump(settings, file)
    os.replace(f"{path}.new", path)  # so that nobody reads half of it


def until_all_have(colour, done):
    """Until each has done a task with it."""
    missing = {"process 1", "process 2"}
    while missing:
        who, with_colour = done.get()
        if with_colour == colour and who in missing:
            print(f"{who}: {colour}", flush=True)
            missing.discard(who)


def main():
    workers, done = {}, multiprocessing.SimpleQueue()
    ending = False

    def start(who):
        process = multiprocessing.Process(target=work, args=(who, path, done))
        process.start()
        workers[process.pid] = who, process

    def on_chld(number, frame):
        while not ending:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)  # several may have died for one signal
            except ChildProcessError:
                return
            if not pid:
                return
            start(workers.pop(pid)[0])

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "config.json")
        write(path, {"colour": "red"})
        for who in ("process 1", "process 2"):
            start(who)
        signal.signal(signal.SIGCHLD, on_chld)  # a child that was forked after it would have it too
        until_all_have("red", done)
        write(path, {"colour": "green"})
        for pid in list(workers):
            os.kill(pid, signal.SIGHUP)  # kills a worker that has no handler yet
        until_all_have("green", done)
        ending = True
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for _, process in workers.values():
            process.terminate()
        for _, process in workers.values():
            process.join()


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    main()
