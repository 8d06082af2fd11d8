"""The last screenshot of a reply, in whatever pieces that came."""

import base64

from osworld_router.screens import last_image

FIRST, LAST = (base64.b64encode(bytes(50 * [byte])) for byte in (1, 2))
TEXT = b'{"text":"a model says \\"b64\\":\\"no\\""}'
REPLY = b'{"m":[{"b64":"%s"},%s,{"b64":"%s","n":1},%s]}' % (FIRST, TEXT, LAST, TEXT)


def test_the_last_image_is_found_across_all_seams() -> None:
    for size in range(1, len(REPLY) + 1):
        pieces = [memoryview(REPLY)[at : at + size] for at in range(0, len(REPLY), size)]
        assert last_image(pieces) == LAST, size


def test_a_reply_without_one_has_none() -> None:
    assert last_image([]) is None
    assert last_image([b'{"obs_messages":null}', TEXT]) is None
