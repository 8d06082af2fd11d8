"""Programs that run in a guest with OSWorld's server, by its own Python: always the same, with data beside them."""

from typing import Final

NO_PYAUTOGUI: Final = 97
CALL_FAILED: Final = 98
"""Exit codes of `CALLS`: the desktop could not, the call cannot be done."""

CALLS: Final = f"""
import json, sys, time
try:
    import pyautogui
    pyautogui.FAILSAFE = False
except Exception as error:
    sys.stderr.write(repr(error))
    sys.exit({NO_PYAUTOGUI})
def write(message, interval=0.0):
    # Source: desktop-env, _fix_pyautogui_less_than_bug: the key that pyautogui presses for "<" types ">".
    for index, part in enumerate(message.split("<")):
        if index:
            pyautogui.hotkey("shift", ",")
        if part:
            pyautogui.write(part, interval=interval)
def press(keys, **more):
    if keys == "<":
        pyautogui.hotkey("shift", ",")
    else:
        pyautogui.press(keys, **more)
own = {{"sleep": time.sleep, "write": write, "press": press}}
try:
    for name, arguments, named in json.loads(sys.argv[1]):
        (own.get(name) or getattr(pyautogui, name))(*arguments, **named)
except Exception as error:
    sys.stderr.write(repr(error))
    sys.exit({CALL_FAILED})
"""

REFRESH: Final = """
import array, fcntl, json, os, struct, sys, time
asked = json.loads(sys.argv[1])
entropy = bytes.fromhex(asked["entropy"])
fd = os.open("/dev/random", os.O_WRONLY)
fcntl.ioctl(fd, 0x40085203, array.array("B", struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy))
fcntl.ioctl(fd, 0x5207)
os.close(fd)
time.clock_settime(time.CLOCK_REALTIME, time.time() - asked["ahead_s"])
found = []
for place in ("/run/osworld-env", "/var/lib/osworld-env"):
    os.makedirs(place, exist_ok=True)
    found += [place + "/" + name for name in sorted(os.listdir(place)) if name != asked["mark"]]
    open(place + "/" + asked["mark"], "w").close()
print(json.dumps(found))
"""
"""What root does in a fork. ``/run`` is in the guest's memory, ``/var/lib`` on its disk.
Source: linux/random.h, RNDADDENTROPY ``_IOW('R', 3, int[2])`` and RNDRESEEDCRNG ``_IO('R', 7)``."""
