"""udsbus beside Redis, on this machine: `python -m benchmarks`. See README.md."""
