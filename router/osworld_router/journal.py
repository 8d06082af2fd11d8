"""What a router keeps of running episodes, so that one that is lost can be played again: the bodies that it passed on.

Nothing is decoded: request bodies are kept as they came, compressed, and of each reply the base64 of its last
screenshot, which is PNG and compressed already. Only replies with a `Mark` are kept; an episode with a gap is not.
"""

import json
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from osworld_contract.replay import EPISODE_BYTES, Mark


@dataclass(frozen=True)
class Passed:
    """A reset or step whose reply the client has."""

    mark: Mark
    request: bytes
    """Its body, compressed."""
    key: str | None
    screen_b64: bytes | None
    pause_s: float
    """For how long the desktop ran between the reply before and this call; see `Journal.pause_s`."""
    took_s: float

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, nearly."""
        return len(self.request) + len(self.screen_b64 or b"")

    def document(self) -> Iterator[bytes]:
        """Yield it as the fields of a `ReplayRequest` or `ReplayedStep`, in pieces."""
        yield b'"call":%s,"key":%s,' % (zlib.decompress(self.request), json.dumps(self.key).encode())
        yield b'"seen":{"windows":"%s","screen_b64":' % self.mark.windows.encode()
        yield from (b"null",) if self.screen_b64 is None else (b'"', self.screen_b64, b'"')
        yield b"}"


@dataclass
class Journal:
    """One episode, from its reset on."""

    uid: str
    """The env server that has it."""
    calls: list[Passed]
    is_delivered: bool = True
    """Whether the client has the last reply, as far as is known."""
    may_be_evaluated: bool = False
    """Whether an evaluate may have begun: it was sent to an env server, whatever came of it."""
    answered: float = field(default_factory=time.monotonic)
    """When the client got the last reply, on the monotonic clock."""
    whole_at: float = field(default_factory=time.monotonic)
    """When it had all that its client had been told, on the monotonic clock."""

    @property
    def mark(self) -> Mark:
        """The last one."""
        return self.calls[-1].mark

    def pause_s(self, arrived: float) -> float:
        """Return for how long the desktop ran before a call that came at `arrived`; one that stands still did not."""
        return 0.0 if self.mark.stands_still else max(0.0, arrived - self.answered)

    def told(self) -> None:
        """Note that the client gets the last reply."""
        self.answered = self.whole_at = time.monotonic()
        self.is_delivered = True

    def moved(self, uid: str, episode_id: str) -> None:
        """Note that the env server `uid` has the episode now, under another id."""
        self.uid = uid
        last = self.calls[-1]
        self.calls[-1] = replace(last, mark=replace(last.mark, episode_id=episode_id))

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, nearly."""
        return sum(call.size_bytes for call in self.calls)

    @property
    def replay_s(self) -> float:
        """How long it takes to play it again, as far as it is known: as long as it took, pauses included."""
        return sum(call.took_s + call.pause_s for call in self.calls)

    def document(self, pause_s: float) -> Iterator[bytes]:
        """Yield the `ReplayRequest`, in pieces; the lost call came `pause_s` after the last reply."""
        yield b"{"
        yield from self.calls[0].document()
        yield b',"steps":['
        for number, call in enumerate(self.calls[1:]):
            yield b'%s{"pause_s":%.3f,' % (b"," if number else b"", call.pause_s)
            yield from call.document()
            yield b"}"
        yield b'],"pause_s":%.3f,"is_delivered":%s,' % (pause_s, b"true" if self.is_delivered else b"false")
        yield b'"replay_of":"%s"}' % self.mark.episode_id.encode()

    def follows(self, mark: Mark, uid: str) -> bool:
        """Return whether a reply with `mark` of the env server `uid` is that to the next step of this episode."""
        return (uid, mark.episode_id, mark.number) == (self.uid, self.mark.episode_id, self.mark.number + 1)

    def ends_with(self, mark: Mark, uid: str) -> bool:
        """Return whether that reply is the one to its last step, sent again."""
        is_step = mark.number > 0
        return is_step and (uid, mark.episode_id, mark.number) == (self.uid, self.mark.episode_id, self.mark.number)


class Journals:
    """The journals of all envs, by env_idx. Where they take too much, the one without a call for longest goes.

    An env_idx of which this router has seen no reset, or a step that does not follow what it knows, is unknown: its env
    server can say more (`rebuild`).
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._journals: OrderedDict[int, Journal] = OrderedDict()
        self._known: set[int] = set()
        self._too_large: set[int] = set()
        """Whose episode was given up for its size."""
        self._changes: Counter[int] = Counter()

    def get(self, env_idx: int) -> Journal | None:
        """Return the journal of the episode that runs as `env_idx`, None where it cannot be played again."""
        return self._journals.get(env_idx)

    def is_known(self, env_idx: int) -> bool:
        """Return whether what is kept of `env_idx`, be it nothing, is all there is to keep."""
        return env_idx in self._known

    def doubt(self, env_idx: int) -> None:
        """Keep nothing of `env_idx`, and take it for unknown: somebody else went on with its episode."""
        self.drop(env_idx)
        self._known.discard(env_idx)

    def changes(self, env_idx: int) -> int:
        """Return a number that is another one after each call of `env_idx`."""
        return self._changes[env_idx]

    def take_over(self, env_idx: int, journal: Journal | None) -> None:
        """Keep what the env server of `env_idx` says of its episode, None where that is not to be played again."""
        self.drop(env_idx)
        self._known.add(env_idx)
        if journal is not None:
            kept = replace(journal, calls=[])
            self._journals[env_idx] = kept
            for call in journal.calls:
                if env_idx in self._journals:
                    self._add(env_idx, call)
            kept.answered, kept.whole_at, kept.is_delivered = journal.answered, journal.whole_at, journal.is_delivered

    def begin(self, env_idx: int, uid: str, call: Passed) -> None:
        """Begin the journal of an episode with its reset."""
        self.drop(env_idx)
        self._known.add(env_idx)
        self._too_large.discard(env_idx)
        if call.mark.number == 0:
            self._journals[env_idx] = Journal(uid, [])
            self._add(env_idx, call)

    def go_on(self, env_idx: int, uid: str, call: Passed) -> None:
        """Add a step; one that does not follow what is there ends the journal."""
        self._changes[env_idx] += 1
        journal = self._journals.get(env_idx)
        if journal is not None and journal.follows(call.mark, uid):
            self._add(env_idx, call)
        elif journal is not None and journal.ends_with(call.mark, uid):
            journal.told()
        else:
            self.drop(env_idx)
            if env_idx not in self._too_large:
                self._known.discard(env_idx)

    def drop(self, env_idx: int) -> None:
        """Keep nothing of `env_idx`. Can be called twice."""
        self._changes[env_idx] += 1
        journal = self._journals.pop(env_idx, None)
        if journal is not None:
            self._size_bytes -= journal.size_bytes

    def _add(self, env_idx: int, call: Passed) -> None:
        journal = self._journals[env_idx]
        journal.calls.append(call)
        journal.told()
        self._size_bytes += call.size_bytes
        self._journals.move_to_end(env_idx)
        if journal.size_bytes > EPISODE_BYTES:
            self._give_up(env_idx)
        while self._size_bytes > self._max_bytes:
            self._give_up(next(iter(self._journals)))

    def _give_up(self, env_idx: int) -> None:
        self.drop(env_idx)
        self._too_large.add(env_idx)
