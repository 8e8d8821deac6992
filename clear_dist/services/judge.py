"""Asking an OpenAI-compatible endpoint with care: no redirect is followed, no key shown, no reply paid for twice.

Requests that fail for a while (429, 408, 5xx, connections, timeouts) are repeated with growing pauses; any other
refusal ends the work with the server's own words. Replies are kept on disk, one file a request, so that work goes on
where it stopped.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clear_dist.services.judge_rubric import cache_key
from clear_dist.types import UserError

ATTEMPTS = 6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds; the pause doubles, and a server may not ask for more than the longest
LARGEST_REPLY = 4_000_000  # bytes read of a response
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PASSING = (408, 429)  # with 5xx: the request may succeed later

Pause = Callable[[float], object]


@dataclass(frozen=True)
class Endpoint:
    """url: checked by ``endpoint``. key: never shown. timeout: seconds for one answer."""

    url: str
    timeout: float = 120.0
    key: str | None = field(default=None, repr=False)

    @property
    def local(self) -> bool:
        return urllib.parse.urlsplit(self.url).hostname in LOOPBACK


class Passing(Exception):
    """A failure that may pass. wait: seconds the server asks for."""

    def __init__(self, words: str, wait: float | None = None) -> None:
        super().__init__(words)
        self.wait = wait


class _StayHere(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: what is sent is private, and the key is meant for this address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def endpoint(url: str, *, key_env: str | None = None, timeout: float = 120.0) -> Endpoint:
    """The endpoint of a base address such as ``http://localhost:8000/v1``.

    Raises UserError: not http or https, no host, a user name or key in the address, or an environment variable that
    is not set or holds no key.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"--url: not an address ({error}); expected one such as http://localhost:8000/v1") from None
    if parts.username is not None or parts.password is not None:
        raise UserError("--url: holds a user name or password; leave it out and name a variable with --api-key-env")
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() or ord(c) < 33 for c in url):
        raise UserError(f"--url {url}: expected an http or https address such as http://localhost:8000/v1")
    if parts.query or parts.fragment:
        raise UserError("--url: expected an address without ? and #; a key belongs into a variable, see --api-key-env")
    base = url.rstrip("/").removesuffix("/chat/completions")
    return Endpoint(f"{base}/chat/completions", timeout, None if key_env is None else _key(key_env))


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"--api-key-env {variable}: this environment variable is not set; export it, or leave it out")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"--api-key-env {variable}: holds characters that no key has; check its value")
    return key


def ask(where: Endpoint, body: Mapping[str, Any]) -> str | None:
    """One request: the text of the reply, None where the model gave none.

    Raises Passing where it may succeed later, UserError where it will not.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "clear-dist"}
    if where.key is not None:
        headers["Authorization"] = f"Bearer {where.key}"
    data = json.dumps(body).encode()
    request = urllib.request.Request(where.url, data=data, headers=headers, method="POST")
    handlers: list[urllib.request.BaseHandler] = [_StayHere()]
    if where.local:  # a proxy cannot reach this machine's own address
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=where.timeout) as response:
            raw = response.read(LARGEST_REPLY + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(where, error) from None
    except (OSError, http.client.HTTPException) as error:  # URLError, timeouts and resets are OSErrors
        reason = getattr(error, "reason", None) or error
        raise Passing(f"{type(error).__name__}: {reason}") from None
    return _text(where, raw)


def _refusal(where: Endpoint, error: urllib.error.HTTPError) -> Exception:
    status = error.code
    if status in PASSING or status >= 500:
        return Passing(f"status {status}", retry_after(error.headers.get("Retry-After")))
    if 300 <= status < 400:
        target = _plain(error.headers.get("Location") or "nowhere")
        return UserError(f"{where.url}: redirects to {target}, which is not followed; give that address with --url")
    said = _plain(error.read(2000).decode("utf-8", "replace"))
    if where.key is not None:
        said = said.replace(where.key, "(the key)")
    hint = "; name the variable that holds the key with --api-key-env" if status in (401, 403) else ""
    return UserError(f"{where.url}: refused with status {status}: {said[:300]}{hint}")


def _text(where: Endpoint, raw: bytes) -> str | None:
    try:
        if len(raw) > LARGEST_REPLY:
            raise ValueError("too long")
        content = json.loads(raw)["choices"][0]["message"].get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{where.url}: the response is none of an OpenAI-compatible /chat/completions; check --url (it usually "
            "ends in /v1)"
        ) from None
    return content if isinstance(content, str) else None


def _plain(text: str) -> str:
    """One line without control characters: a server's words are shown on a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds of a Retry-After header (seconds or a date), at most ``LONGEST_PAUSE``; None where it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_PAUSE) if seconds == seconds else None


def ask_patiently(where: Endpoint, body: Mapping[str, Any], pause: Pause = time.sleep) -> str | None:
    """``ask``, repeated at most ``ATTEMPTS`` times. Raises UserError at the end of the patience."""
    for attempt in range(ATTEMPTS):
        try:
            return ask(where, body)
        except Passing as failure:
            if attempt == ATTEMPTS - 1:
                raise UserError(
                    f"{where.url}: failed {ATTEMPTS} times in a row (last: {failure}); is the server running? Replies "
                    "so far are kept: give the same command again to go on"
                ) from None
            growing = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            pause(growing if failure.wait is None else failure.wait)
    raise AssertionError("unreachable")


def read_cached(folder: Path, key: str) -> tuple[bool, str | None]:
    """(whether a reply is kept, the reply). A damaged file counts as none."""
    try:
        entry = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False, None
    if not isinstance(entry, dict) or entry.get("key") != key or "reply" not in entry:
        return False, None
    reply = entry["reply"]
    return (True, reply) if reply is None or isinstance(reply, str) else (False, None)


def write_cached(folder: Path, key: str, reply: str | None) -> None:
    """Keeps a reply, in one step: other processes read the whole file or none."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{key}.", suffix=".partial", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"v": 1, "key": key, "reply": reply}, file)
        os.replace(name, folder / f"{key}.json")
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def ask_all(
    where: Endpoint,
    bodies: Sequence[Mapping[str, Any]],
    cache: Path,
    *,
    workers: int = 4,
    on_progress: Callable[[int], None] | None = None,
    pause: Pause | None = None,
) -> list[str | None]:
    """Replies to all requests, in their order; equal requests are asked once, kept replies not at all.

    Args:
        on_progress: called with the number of requests done.
        pause: waits between attempts; default: a wait that ends when the work is given up.

    Raises UserError of the first request that cannot be had; those under way are let finish, no further are begun.
    """
    stop = threading.Event()

    def unless_stopped(seconds: float) -> None:
        if stop.wait(seconds):
            raise UserError("given up")  # seen by nobody: another request has failed before

    wait = pause or unless_stopped
    keys = [cache_key(body) for body in bodies]
    unique = dict(zip(keys, bodies, strict=True))
    replies: dict[str, str | None] = {}
    for key in unique:
        kept, reply = read_cached(cache, key)
        if kept:
            replies[key] = reply
    times = Counter(keys)
    done = sum(times[key] for key in replies)
    tell = on_progress or (lambda count: None)
    tell(done)

    def work(key: str) -> str | None:
        reply = ask_patiently(where, unique[key], wait)
        write_cached(cache, key, reply)
        return reply

    pool = ThreadPoolExecutor(workers, thread_name_prefix="judge")
    try:
        tasks = {pool.submit(work, key): key for key in unique if key not in replies}
        for task in as_completed(tasks):
            replies[tasks[task]] = task.result()
            done += times[tasks[task]]
            tell(done)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return [replies[key] for key in keys]
