"""Connections to web servers that threads may share, through the proxies of the environment
(`https_proxy`, `no_proxy`)."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from typing import Any

import urllib3
from urllib3.util import parse_url

HOSTS = 16
"""Hosts that connections are kept to."""


class Connections:
    """Connections that are used again, at most `kept` to a host."""

    def __init__(self, kept: int, headers: Mapping[str, str]) -> None:
        """Take the headers that every request has."""
        self.headers = dict(headers)
        self._direct = urllib3.PoolManager(num_pools=HOSTS, maxsize=kept)
        self._proxies = {
            scheme: urllib3.ProxyManager(proxy, num_pools=HOSTS, maxsize=kept)
            for scheme, proxy in urllib.request.getproxies().items()
            if scheme in ("http", "https") and proxy.startswith(("http://", "https://"))
        }

    def request(self, method: str, url: str, **settings: Any) -> urllib3.BaseHTTPResponse:
        """Ask as `urllib3.PoolManager.request` does, with `headers` in addition to those of every
        request; raises what it raises."""
        headers = {**self.headers, **settings.pop("headers", {})}
        return self._pool(url).request(method, url, headers=headers, **settings)

    def _pool(self, url: str) -> urllib3.PoolManager:
        address = parse_url(url)
        if urllib.request.proxy_bypass(address.host or ""):
            return self._direct
        return self._proxies.get(address.scheme or "", self._direct)


def retry_after(answer: urllib3.BaseHTTPResponse) -> float:
    """Return the seconds of an answer's Retry-After header; its other form, a date,
    counts as none."""
    text = answer.headers.get("Retry-After", "").strip()
    return float(text) if text.isdecimal() else 0.0
