"""The mistake that the test of the rotating proxy must notice: a plugin that asks only once."""

from __future__ import annotations

from proxy.http.parser import HttpParser

from examples.proxy_rotation import plugin


class RememberingUpstream(plugin.RotatingUpstream):
    first: tuple[bytes | None, int | None] | None = None

    def before_upstream_connection(self, request: HttpParser) -> HttpParser:
        request = super().before_upstream_connection(request)
        if RememberingUpstream.first is None:
            RememberingUpstream.first = request.host, request.port
        request.host, request.port = RememberingUpstream.first
        return request
