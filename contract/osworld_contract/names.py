"""Names that more than one part uses: ports, headers, metric prefix, program names. Each exists once, here."""

from typing import Final

ENV_SERVER_PORT: Final = 18082
"""Port of an env server. Source: the port that today's users of the env server have in their configs."""

ROUTER_PORT: Final = 15001
"""Port of the router. Source: as above; the tunnel's end at the training cluster has the same number."""

GUEST_SERVER_PORT: Final = 5000
GUEST_CHROMIUM_PORT: Final = 9222
GUEST_VLC_PORT: Final = 8080
GUEST_VNC_PORT: Final = 8006
"""Ports inside a desktop. Source: OSWorld's guest (desktop-env 1.0.2, ``DesktopEnv.__init__``)."""

HEADER_ENV_IDX: Final = "X-Env-Idx"
"""Names an env at the router's bare paths; the env server echoes it in ``env_idx``."""

HEADER_EPOCH: Final = "X-Osworld-Epoch"
"""Grows with every move of an env_idx; an env server answers 421 to an epoch lower than one it has seen."""

HEADER_UID: Final = "X-Osworld-Uid"
"""Names the env server that is meant (in a cluster its pod's uid): another one, which has the address by now, answers
421."""

HEADER_STEP: Final = "X-Osworld-Step"
"""Number of the step in its episode, from 1; a repeat of the same number gets the recorded reply."""

HEADER_IDEMPOTENCY_KEY: Final = "Idempotency-Key"
HEADER_CLIENT: Final = "X-Osworld-Client"
HEADER_CLIENT_V2: Final = "v2"
"""Value of `HEADER_CLIENT` by which a client asks for error statuses where v1 gets 200 and a fault."""

HEADER_ACKS: Final = "X-Osworld-Acks"
"""Set to ``1`` on a reset or step whose reply the router will acknowledge with `ACK_PATH` once its client has it."""

HEADER_UNSEEN: Final = "X-Osworld-Unseen"
"""Set to ``1`` on an evaluate by a router that has seen no reset or step of this env since it started, or does not know
what another one has told since: a reset may have been refused, and the episode is not the one that is asked about."""

HEADER_SEEN: Final = "X-Osworld-Seen"
"""On an evaluate, from a client that keeps count: the key of the last reset or step whose reply it has. There is a
score only if that is the last call of the episode. It says more than acknowledgements, and outlives the router. On a
step, a router that has noted another last call knows by it that it has not seen all."""

HEADER_EPISODE: Final = "X-Osworld-Episode"
"""On the reply to a reset or step: the id of its episode, by which its record is found."""

HEADER_ENDED: Final = "X-Osworld-Ended"
"""On a reset, from a router: how an episode before it ended for its client, where the env server may not know; a
`record.RecordEnd`."""

ACK_PATH: Final = "/ack"

HEADER_FAULT: Final = "X-Osworld-Fault"
"""Set on every reply that carries a fault: ``<kind>/<reason>``."""

METRIC_PREFIX: Final = "osworld_"

SCREEN_WIDTH_PX: Final = 1920
SCREEN_HEIGHT_PX: Final = 1080

BOOTED_PROVIDERS: Final = frozenset({"docker", "vmware", "aws"})
"""Values of ``PROVIDER`` whose machines are booted anew for each episode, for minutes."""

GUEST_USER: Final = "user"
GUEST_PASSWORD: Final = "password"  # noqa: S105 - OSWorld's published images have this very password
GUEST_HOME: Final = "/home/user"
GUEST_HOSTNAME: Final = "user-virtual-machine"
"""Source: OSWorld's images; prompts of its tasks' terminals show it."""

ENV_TOKEN: Final = "OSWORLD_TOKEN"  # noqa: S105 - the name of a variable
"""Variable with the token that a server asks of its clients."""

ENV_UPSTREAM_TOKEN: Final = "OSWORLD_UPSTREAM_TOKEN"  # noqa: S105 - the name of a variable
"""Variable with the token that the router shows to env servers."""
