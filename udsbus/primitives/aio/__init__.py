"""The primitives for the async client; most are also the source of the sync ones, see
tools/twins.py."""
