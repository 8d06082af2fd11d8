"""What runs in the small container image of tests: a guest wire of OSWorld's form, without a screen behind it.

Standard library alone. The disk that is mounted at /System.qcow2 ends in a line of JSON that says how to behave, and is
read again for each look, so that a test on the host can let a guest that hangs go on:
``hold`` (no screen yet), ``needs_emulation`` (no screen where KVM is on), ``exit`` (end with this code),
``exit_under_kvm`` (the same where KVM is on, as OSWorld's image does where it cannot use the device).
"""

import json
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DISK = Path(os.environ.get("GUEST_DISK", "/System.qcow2"))
HOSTS = os.environ.get("GUEST_HOSTS", "0.0.0.0").split(",")
"""In a container all addresses; on the host those that tests give out, and no other."""
LOOK_S = 0.05


def behaviour() -> dict[str, object]:
    """Return what the disk's last line says."""
    with DISK.open("rb") as file:
        file.seek(-min(DISK.stat().st_size, 4096), os.SEEK_END)
        last = file.read().rsplit(b"\n", 1)[-1]
    return json.loads(last) if last.startswith(b"{") else {}


def png(width: int, height: int) -> bytes:
    """Return a grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x80" * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


SCREEN = png(1920, 1080)


class Guest(BaseHTTPRequestHandler):
    """The wire's paths that a task without programs needs."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """Answer ``/screenshot`` and ``/platform``."""
        if self.path == "/screenshot":
            self._send(SCREEN, "image/png")
        elif self.path == "/platform":
            self._send(b"Linux", "text/plain")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """Answer ``/execute`` and ``/setup/execute``."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path not in ("/execute", "/setup/execute"):
            self.send_error(404)
            return
        asked = json.loads(body)
        done = subprocess.run(
            asked["command"], shell=asked.get("shell", False), capture_output=True, text=True, timeout=120, check=False
        )
        reply = {"status": "success", "output": done.stdout, "error": done.stderr, "returncode": done.returncode}
        self._send(json.dumps(reply).encode(), "application/json")

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Come up as the disk says, and serve."""
    is_kvm_on = os.environ.get("KVM") != "N"
    while True:
        now = behaviour()
        if "exit" in now:
            sys.stderr.write("the guest's kernel panics\n")
            sys.exit(int(str(now["exit"])))
        if is_kvm_on and "exit_under_kvm" in now:
            sys.stderr.write("KVM acceleration not available\n")
            sys.exit(int(str(now["exit_under_kvm"])))
        is_stuck = now.get("hold") or (now.get("needs_emulation") and is_kvm_on)
        if not is_stuck:
            break
        time.sleep(LOOK_S)
    for host in HOSTS:
        threading.Thread(target=ThreadingHTTPServer((host, 5000), Guest).serve_forever).start()


if __name__ == "__main__":
    main()
