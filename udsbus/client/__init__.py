"""The client library: a pure core, and the sync client on top of it."""
