"""The agents of a run as its head sees them: who is there, what they say, what they are told."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from . import fetching
from .rundir import RunDir
from .wire import AsyncChannel, Header, ProtocolError

#: An agent that does not read for so long (its machine is frozen) counts as gone, in seconds.
SILENT_S = 10.0


@dataclass(frozen=True)
class Going:
    """A trainer that is at work when its agent connects: the head before this one started it."""

    generation: int
    phase: str


@dataclass
class Connected:
    """A connected agent and the workers that it owns; `going` are trainers that it has already."""

    channel: AsyncChannel
    workers: list[int]
    versions: dict[str, str]
    going: dict[int, Going] = field(default_factory=dict)
    _handled: int = 0
    _begun: dict[str, int] = field(default_factory=dict)

    def take(self, header: Header) -> None:
        """Count a message as handled; the pieces of a file count when it is complete."""
        self._handled = header.get("n", self._handled)
        message = header.get("message", {})
        if message.get("say") == "file":
            if message["last"]:
                self._begun.pop(message["path"], None)
            else:
                self._begun.setdefault(message["path"], self._handled)

    def abandon(self) -> None:
        """Forget the files that had begun to come."""
        self._begun.clear()

    @property
    def taken(self) -> int:
        """The number up to which this agent need not tell its messages again."""
        return min(self._begun.values(), default=self._handled + 1) - 1


#: A message: from whom (None: from the head itself), its header and its body.
Item = tuple[Connected | None, Header, bytes]


class Agents:
    """Serves the connections of a run's agents, and puts what they say into one queue.

    Parameters
    ----------
    token
        What agents must present; empty where they come through a socket of this process' own.
    incarnation
        Counts the heads of this run: agents turn down one that is older than theirs.
    logged
        Returns how many bytes of a worker's log there are.
    """

    def __init__(
        self, rundir: RunDir, token: str, incarnation: int, logged: Callable[[int], int]
    ) -> None:
        self._rundir, self._token, self._incarnation = rundir, token, incarnation
        self._logged = logged
        self._inbox: asyncio.Queue[Item] = asyncio.Queue()
        self._of: dict[int, Connected] = {}
        self._last: Item | None = None
        #: The run has ended: agents that come are sent away.
        self.over = False

    async def serve(self, channel: AsyncChannel) -> None:
        """Serve one agent until its connection ends."""
        agent: Connected | None = None
        try:
            async for header, body in channel.receive():
                if agent is not None:
                    await self._inbox.put((agent, header, body))
                elif not self._knows(header):
                    await channel.send({"do": "refused"})
                    return
                elif header.get("is") == "get":
                    await fetching.send(channel, self._rundir.inside(header["path"]))
                    return
                elif (agent := await self._admit(channel, header)) is None:
                    return
        except (ProtocolError, OSError):
            return
        finally:
            channel.close()
            if agent is not None:
                await self._inbox.put((agent, {"is": "gone"}, b""))

    def _knows(self, header: Header) -> bool:
        """Tell whether the first frame of a connection is one, and has the run's token."""
        given = str(header.get("token", "")).encode()
        known = hmac.compare_digest(given, self._token.encode())
        return known and header.get("is") in ("hello", "get")

    async def _admit(self, channel: AsyncChannel, hello: Header) -> Connected | None:
        if self.over:
            await channel.send({"do": "quit"})
            return None
        workers = [int(w) for w in hello["workers"]]
        going = {int(w): Going(**trainer) for w, trainer in hello.get("going", {}).items()}
        agent = Connected(channel, workers, hello.get("versions", {}), going)
        logs = {str(w): self._logged(w) for w in workers}
        await channel.send({"do": "welcome", "incarnation": self._incarnation, "logs": logs})
        self._of |= dict.fromkeys(workers, agent)
        self._inbox.put_nowait((agent, {"is": "came"}, b""))
        return agent

    # -- what they say ----------------------------------------------------------------------

    def post(self, header: Header) -> None:
        """Put a message of the head's own into the queue."""
        self._inbox.put_nowait((None, header, b""))

    async def next(self, timeout: float) -> Item | None:
        """Return the next message, or None after `timeout` seconds; the one before is handled."""
        if self._last is not None and self._last[0] is not None:
            self._last[0].take(self._last[1])
        try:
            self._last = await asyncio.wait_for(self._inbox.get(), timeout)
        except TimeoutError:
            self._last = None
        return self._last

    # -- who is there -----------------------------------------------------------------------

    def get(self, worker: int) -> Connected | None:
        """Return the connected agent of a worker, if there is one."""
        agent = self._of.get(worker)
        return None if agent is None or agent.channel.closed else agent

    def here(self) -> list[Connected]:
        """Return those that are connected."""
        return [a for a in {id(a): a for a in self._of.values()}.values() if not a.channel.closed]

    # -- what they are told -----------------------------------------------------------------

    async def tell(self, agent: Connected, message: Header) -> None:
        """Send a message; an agent that does not read it counts as gone."""
        try:
            await asyncio.wait_for(agent.channel.send(message), SILENT_S)
        except TimeoutError:
            agent.channel.close()
        except ConnectionError:
            pass

    async def tell_all(self, message: Header) -> None:
        """Send a message to all that are connected."""
        for agent in self.here():
            await self.tell(agent, message)

    async def acknowledge(self) -> None:
        """Tell them what they need not keep any longer."""
        for agent in self.here():
            await self.tell(agent, {"do": "taken", "n": agent.taken})

    async def close(self) -> None:
        """Part with all of them."""
        for agent in self._of.values():
            agent.channel.close()
