"""The same for the async client."""
