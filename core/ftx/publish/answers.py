"""What a hub's answer, or none, means: one sentence each, the same for all hubs."""

from __future__ import annotations

import time

from ftx.errors import HubError
from ftx.publish.addresses import proxy_of, told_proxy

AGAIN = "run the same command again"
AGED = ("expired", "not yet valid", "skew", "time is too")  # what is said of certificates and links when clocks differ


def refused(hub: str, repo: str, status: int, why: str) -> HubError:
    """The sentence for an HTTP status; who may do what (401, 402, 403) is each hub's own to tell."""
    if status == 507 or "quota" in why.lower():
        return no_room(hub, repo, why)
    if status == 404:
        return HubError(f"{repo} on {hub} is gone, or was renamed: look at its page; then {AGAIN}")
    if status == 407:
        return HubError(f"the proxy between here and {hub} asks who you are: put name and password into https_proxy")
    if status in (409, 412):
        return HubError(f"someone else changed {repo} on {hub} meanwhile; {AGAIN}")
    if status == 413:
        return HubError(f"{hub} refuses a file of {repo} for its size: {why}")
    if status in (400, 422):
        return HubError(f"{hub} refuses what was sent to {repo}: {why}")
    if status == 429:
        return HubError(f"{hub} asks for a pause (429); {AGAIN} in some minutes")
    return HubError(f"{hub} answered {status} for {repo}; {AGAIN} later")


def no_room(hub: str, repo: str, why: str) -> HubError:
    return HubError(f"{hub} has no room for {repo}: {why}; free space there or ask for more")


def store_refused(hub: str, repo: str, status: int, why: str) -> HubError:
    """For the storage behind a hub, which knows no token but the signature and the time of a link."""
    return HubError(
        f"{hub}'s storage does not take a file of {repo} ({status}: {why}); {AGAIN}, and when it stays so look at this "
        f"machine's clock, {_clock()}"
    )


def unreachable(hub: str, address: str, why: str) -> HubError:
    """For no answer: an untrusted certificate, a proxy that does not do, or no connection."""
    low = why.lower()
    if "certificate" in low or "ssl" in low:
        if any(sign in low for sign in AGED):
            do = f"look at this machine's clock, {_clock()}"
        else:
            do = "set SSL_CERT_FILE where your network has an authority of its own, or look at this machine's clock, "
            do += _clock()
        return HubError(f"{hub} ({address}) cannot be trusted: {why}; {do}")
    if proxy := _proxy(address):
        return HubError(f"{hub} ({address}) cannot be reached through {proxy}: {why}; look at it, then {AGAIN}")
    return HubError(f"{hub} ({address}) cannot be reached: {why}; what was sent is kept there, {AGAIN}")


def _clock() -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"


def _proxy(address: str) -> str | None:
    """The proxy on the way, without the password that may be in it; None where there is none."""
    found = proxy_of(address)
    if found is None:
        return None
    variable, value = found
    return f"the proxy {told_proxy(value) or '(no address)'} of {variable}"
