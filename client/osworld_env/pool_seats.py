"""Which env server of a local pool has which env_idx, and which are spares. Pure.

An env server sits in a slot; a slot is not an env_idx. The env_idx of one that ended goes to a spare at once, and what
comes up again is a spare then, or takes the lowest env_idx that nobody has.
"""

from dataclasses import dataclass

from osworld_contract.registry import RegistryEntry
from osworld_env.pool_plan import Server


@dataclass(frozen=True)
class Tenancy:
    """Which env server has an env_idx. A successor has the next epoch and another uid."""

    env_idx: int
    epoch: int
    server: Server

    def entry(self) -> RegistryEntry:
        """Return the tenancy as the registry has it."""
        return RegistryEntry(env_idx=self.env_idx, uid=self.server.uid, epoch=self.epoch, url=self.server.url)


class Seats:
    """The env_idx from 0 to `envs` - 1, and who has them."""

    def __init__(self, envs: int) -> None:
        self._envs = envs
        self._tenancies: dict[int, Tenancy] = {}
        self._living: dict[int, Server] = {}
        """By slot."""

    @property
    def tenancies(self) -> list[Tenancy]:
        """Who has which env_idx, in its order; one that ended keeps its own until there is a successor."""
        return [self._tenancies[env_idx] for env_idx in sorted(self._tenancies)]

    @property
    def spares(self) -> list[Server]:
        """Return the living env servers without an env_idx, by slot."""
        seated = {tenancy.server.uid for tenancy in self._tenancies.values()}
        return [self._living[slot] for slot in sorted(self._living) if self._living[slot].uid not in seated]

    def came_up(self, server: Server) -> Tenancy | None:
        """Seat `server`, which is ready. Return its tenancy, None for a spare.

        The first in a slot below `envs` has the slot's number, so that a pool that starts looks the same each time.
        """
        self._living[server.slot] = server
        vacant = [
            env_idx for env_idx in range(self._envs) if self._is_vacant(env_idx) and self._may_take(server, env_idx)
        ]
        if not vacant:
            return None
        return self._seat(server.slot if server.slot in vacant else vacant[0], server)

    def ended(self, slot: int) -> Tenancy | None:
        """Give the env_idx of the env server that ended in `slot` to a spare. Return its tenancy, None without one."""
        gone = self._living.pop(slot, None)
        spares = self.spares
        for tenancy in self.tenancies:
            if gone is not None and tenancy.server.uid == gone.uid and spares:
                return self._seat(tenancy.env_idx, spares[0])
        return None

    def move(self, env_idx: int, from_uid: str, epoch: int) -> Tenancy | None:
        """Give `env_idx` to a spare, if the env server of `from_uid` still has it by `epoch`.

        Returns:
            Who has it then. None where there is no spare: nothing changes.
        """
        tenancy = self._tenancies.get(env_idx)
        if tenancy is None or (tenancy.server.uid, tenancy.epoch) != (from_uid, epoch):
            return tenancy
        spares = self.spares
        return self._seat(env_idx, spares[0]) if spares else None

    def _is_vacant(self, env_idx: int) -> bool:
        tenancy = self._tenancies.get(env_idx)
        return tenancy is None or self._living.get(tenancy.server.slot) != tenancy.server

    def _may_take(self, server: Server, env_idx: int) -> bool:
        return env_idx in self._tenancies or env_idx == server.slot

    def _seat(self, env_idx: int, server: Server) -> Tenancy:
        before = self._tenancies.get(env_idx)
        tenancy = Tenancy(env_idx, 1 if before is None else before.epoch + 1, server)
        self._tenancies[env_idx] = tenancy
        return tenancy
