"""Nonces that several edges share, in a server that speaks Redis' protocol."""

import asyncio
import logging

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serving.logs import event
from serving.miner.nonces import (
    GENERATION_S,
    SESSIONS_PER_CALLER,
    LocalNonces,
    Session,
    replayed,
    too_many_sessions,
)

logger = logging.getLogger(__name__)

# Nonces are compared as texts of equal length: Lua's numbers are too short for them.
_TAKE = """
local newest = redis.call('GET', KEYS[1])
if newest and newest >= ARGV[1] then return 0 end
if not newest then
  local opened = redis.call('INCR', KEYS[2])
  if opened == 1 then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
  if opened > tonumber(ARGV[3]) then return -1 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class SharedNonces:
    """The nonces of several edges, in a server that speaks Redis' protocol.

    Whatever the server says, every edge remembers what it took itself. While the server is silent an edge goes on by
    that alone: a challenge that nobody answers costs reward, while a replay to another replica earns nothing and
    costs one prediction. The outage is logged once and counted challenge by challenge.

    Args:
        url: of the server, as in `redis://:password@host:6379/0`; it is never logged.
        local: what this edge took itself.
        timeout_s: for one question.
        pause_s: how long the server is left alone after it failed.
        sessions_per_caller: more within two generations are refused.
    """

    def __init__(
        self,
        url: str,
        local: LocalNonces,
        *,
        timeout_s: float = 0.25,
        pause_s: float = 1.0,
        sessions_per_caller: int = SESSIONS_PER_CALLER,
    ) -> None:
        # One retry, for a connection that the server closed since the last challenge.
        pool = BlockingConnectionPool.from_url(url, max_connections=16, timeout=None, retry=Retry(NoBackoff(), 1))
        self._redis = Redis.from_pool(pool)
        self._script = self._redis.register_script(_TAKE)
        self._local = local
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._sessions_per_caller = sessions_per_caller
        self._down_until_s = 0.0
        self._is_down = False
        self._failures = 0

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()
        self._local.close()

    @property
    def sessions(self) -> int:
        """How many are remembered here."""
        return self._local.sessions

    @property
    def failures(self) -> int:
        """How many nonces were taken without the server, or could not be written."""
        return self._failures + self._local.failures

    async def take(self, session: Session, nonce_ns: int) -> None:
        """Takes a nonce, as in `NonceStore`."""
        match await self._ask(session, nonce_ns):
            case None:
                await self._local.take(session, nonce_ns)
            case 1:
                self._local.remember(session, nonce_ns)
            case 0:
                raise replayed()
            case _:
                raise too_many_sessions(self._sessions_per_caller)

    async def _ask(self, session: Session, nonce_ns: int) -> int | None:
        """What the server says, None where it says nothing."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._down_until_s:
            self._failures += 1
            return None
        # The braces keep both keys on one node of a cluster.
        prefix = f"streetvision:nonces:{{{session.receiver}:{session.caller}}}"
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = int(
                    await self._script(
                        keys=[f"{prefix}:newest:{session.name}", f"{prefix}:sessions"],
                        args=[f"{nonce_ns:020d}", int(2000 * GENERATION_S), self._sessions_per_caller],
                    )
                )
        except (RedisError, OSError, TimeoutError) as err:
            self._failures += 1
            self._down_until_s = loop.time() + self._pause_s
            if not self._is_down:
                event(logger, "nonce_server_down", level=logging.ERROR, reason=type(err).__name__)
            self._is_down = True
            return None
        if self._is_down:
            event(logger, "nonce_server_back")
        self._is_down = False
        return answer
