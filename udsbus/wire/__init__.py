"""Bytes in, messages out, and back: framing, the table of methods, the value codec. No I/O."""
