"""What a router makes of the others' absence."""

from osworld_router.journal import Journals
from osworld_router.peers import LEAVE_S, Elsewhere, Peers
from osworld_router.pods import PodRegistry
from osworld_router.scores import Scores
from osworld_router.scribe import Scribe
from osworld_router.upstream import Upstream

URL = "http://10.1.2.4:15001"


async def test_a_router_that_has_left_may_have_told_anything_before() -> None:
    registry = PodRegistry("train", "desks")
    peers = Peers(registry, Upstream(1, None), Scribe(Journals(0)), Scores(), None)
    for router in (URL, None, URL, URL, None, None):
        registry.take_over("desks-router-0", None, router)
        registry.take_over("desks-0", None)
        assert set(registry.routers_left) == ({URL} if router is None else set()), "one that is back can be asked"
    left = registry.routers_left[URL]
    for after_s, elsewhere in ((-60, Elsewhere.UNKNOWN), (LEAVE_S / 2, Elsewhere.UNKNOWN), (60, Elsewhere.NOTHING)):
        assert await peers.since(0, left + after_s) is elsewhere
