"""Token buckets: how often one token or one address may call.

The buckets live in Redis or Valkey, where all web processes share them, while that answers; else in this process.
"""

import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from app.adapters.clock import Clock

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

_RETRY_SHARED_SECONDS = 10.0
_TIMEOUT_SECONDS = 0.25
_MAX_LOCAL_BUCKETS = 10_000

# KEYS: buckets. ARGV: cost, then rate and burst of each. Takes from all or from none; returns the seconds to wait.
# A negative cost gives back.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local cost, wait, left = tonumber(ARGV[1]), 0, {}
for i, key in ipairs(KEYS) do
  local rate, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local bucket = redis.call('HMGET', key, 'n', 'at')
  local n, at = tonumber(bucket[1]) or burst, tonumber(bucket[2]) or now
  n = math.min(burst, n + math.max(0, now - at) * rate - cost)
  if n < 0 then wait = math.max(wait, -n / rate) end
  left[i] = n
end
if wait > 0 then return tostring(wait) end
for i, key in ipairs(KEYS) do
  local rate, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  redis.call('HSET', key, 'n', string.format('%.6f', left[i]), 'at', string.format('%.6f', now))
  redis.call('PEXPIRE', key, math.ceil(1000 * burst / rate) + 1000)
end
return '0'
"""


@dataclass(frozen=True)
class Limit:
    """`rate` calls a second on the long run, `burst` at once."""

    rate: float
    burst: float


class LocalBuckets:
    """Buckets of this process. A full bucket is the same as none, so full ones are forgotten when there are many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float, Limit]] = {}

    def take(self, limits: Mapping[str, Limit], cost: float = 1.0) -> float:
        """Take from every bucket or from none. Returns 0, or the seconds until it would have worked."""
        now = self._clock.now().timestamp()
        left = {key: self._left(key, limit, now) - cost for key, limit in limits.items()}
        wait = max((-n / limits[key].rate for key, n in left.items()), default=0.0)
        if wait > 0:
            return wait
        for key, n in left.items():
            self._buckets[key] = (min(n, limits[key].burst), now, limits[key])
        if len(self._buckets) > _MAX_LOCAL_BUCKETS:
            self._forget_full(now)
        return 0.0

    def _left(self, key: str, limit: Limit, now: float) -> float:
        n, at, _ = self._buckets.get(key, (limit.burst, now, limit))
        return min(limit.burst, n + max(0.0, now - at) * limit.rate)

    def _forget_full(self, now: float) -> None:
        full = [key for key, (_, _, limit) in self._buckets.items() if self._left(key, limit, now) >= limit.burst]
        for key in full:
            del self._buckets[key]


class RateLimiter:
    """Takes from the shared buckets while Redis answers, from local ones for a while when it does not."""

    def __init__(self, redis_url: str, clock: Clock) -> None:
        self._redis = _connect(redis_url)
        self._local = LocalBuckets(clock)
        self._use_local_until = 0.0

    async def take(self, limits: Mapping[str, Limit], cost: float = 1.0) -> float:
        """Take from every bucket or from none. Returns 0, or the seconds until it would have worked."""
        if self._redis is not None and time.monotonic() >= self._use_local_until:
            try:
                return await self._take_shared(self._redis, limits, cost)
            except Exception as error:  # whatever is wrong with the counting, it must not stop the site
                self._use_local_until = time.monotonic() + _RETRY_SHARED_SECONDS
                logger.warning("rate limits are counted in this process for now: %s", error)
        return self._local.take(limits, cost)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    async def _take_shared(self, redis: "Redis", limits: Mapping[str, Limit], cost: float) -> float:
        keys = [f"tastemaker:rate:{key}" for key in limits]
        numbers: Sequence[str] = [str(cost), *(str(n) for limit in limits.values() for n in (limit.rate, limit.burst))]
        wait = await cast(Awaitable[bytes], redis.eval(_TAKE, len(keys), *keys, *numbers))
        return float(wait)


def _connect(url: str) -> "Redis | None":
    """A client for a broker that can count; None for another kind of broker."""
    scheme = urlsplit(url).scheme
    if scheme == "redis+socket":
        url = "unix" + url.removeprefix("redis+socket")
    elif scheme not in ("redis", "rediss", "valkey", "valkeys"):
        return None
    from redis.asyncio import Redis  # takes a while to import, which `import app.main` can do without

    client: Redis = Redis.from_url(
        url.replace("valkey", "redis", 1) if scheme.startswith("valkey") else url,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
    )
    return client
