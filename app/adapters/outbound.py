"""Calls to addresses that users name, without letting them reach what only this machine can reach (SSRF).

The name is resolved once, every address it has is judged, and the call goes to the address that was judged: a name
that resolves differently the second time (DNS rebinding) gains nothing. Redirects are not followed, proxies not used.
"""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from app.domain.errors import ForbiddenError, InvalidSpecError, UnavailableError

_TIMEOUT_SECONDS = 10.0
# ways to write an IPv4 address within an IPv6 one that a router on the way may unwrap
_WRAPPED = [ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")]
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """A URL taken apart."""

    url: str
    scheme: str
    host: str
    port: int


def parse_url(url: str, *, field: str) -> Target:
    """Raises InvalidSpecError for what is no plain http(s) address: another scheme, a user name, no host, no port."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    is_plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url and "@" not in parts.netloc
    if not (is_plain and parts.scheme in _DEFAULT_PORTS and parts.hostname and port):
        message = "Use a plain address such as https://example.org/hook, without user name or password."
        raise InvalidSpecError(message, [{"field": field, "message": message}])
    return Target(url, parts.scheme, parts.hostname, port)


def resolve(target: Target, *, allow_private: bool) -> str:
    """The address to call.

    Raises:
        UnavailableError: the name does not resolve.
        ForbiddenError: one of its addresses is private, loopback, link-local or otherwise not of the public internet.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"The name {target.host!r} does not resolve; check the address.") from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    if not allow_private and not all(is_public(address) for address in addresses):
        raise ForbiddenError(
            f"{target.host!r} is a private or local address; an admin of this machine may allow these with "
            "TASTEMAKER_WEBHOOK_ALLOW_PRIVATE=true."
        )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, however it is written."""
    parsed: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif any(parsed in network for network in _WRAPPED):
            return False
    return parsed.is_global and not parsed.is_multicast


def post(target: Target, address: str, body: bytes, headers: dict[str, str]) -> int:
    """POST to `target` at the address that `resolve` gave. Returns the status; the answer's body is not read.

    Raises:
        UnavailableError: nothing answers within ten seconds, or its certificate is not the host's.
    """
    import httpx  # takes a while to import, which `import app.main` can do without

    url = httpx.URL(target.url)
    try:
        with (
            httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False, follow_redirects=False) as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers={**headers, "Host": url.netloc.decode("ascii")},
                extensions={"sni_hostname": target.host},
            ) as response,
        ):
            return response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise UnavailableError(f"{target.host} did not answer: {type(error).__name__}: {error}") from error
