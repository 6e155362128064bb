"""A page in headless Chromium: what it measures, what it asks the network for, how it looks."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Scheme = Literal["light", "dark"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_S = 120
HEIGHT = 14_000
"""Pixels of a window that holds a whole page."""
ITS_OWN = ("google", "gvt1.com", "gstatic")
"""Hosts that the browser asks for on its own account."""

SCRIPT = Path(__file__).with_name("measure.js")
"""Measures the page it is in and leaves the result in an element `measured`."""


def chromium() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def without_policy(text: str) -> str:
    """The page without its content security policy, so that a script may measure it."""
    stripped, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1, "the page has one policy"
    return stripped


def measured(page: Path, folder: Path, width: int, scheme: Scheme) -> dict[str, Any]:
    """Lay a page out and measure it.

    Args:
        page: the page.
        folder: where a copy with the script may lie.
        width: of the window, in pixels.
        scheme: what the browser says it prefers.

    Returns:
        width of the window and of the page; elements beyond the window outside a box that scrolls;
        texts of figures that are cut or lie on another; texts whose contrast is below 4.5.
    """
    text = without_policy(page.read_text(encoding="utf-8"))
    script = f"<script>{SCRIPT.read_text(encoding='utf-8')}</script></body>"
    copy = framed(text.replace("</body>", script), folder, width, HEIGHT)
    done = dump(copy, folder, width, HEIGHT, scheme)
    found = re.search(r'<pre id="measured">(.*?)</pre>', done, re.DOTALL)
    assert found is not None, "the script did not run"
    told: dict[str, Any] = json.loads(html.unescape(found[1]))
    return told


def framed(text: str, folder: Path, width: int, height: int) -> Path:
    """A page that holds another in a frame of some size: a window is 500 pixels wide at least."""
    frame = folder / f"framed-{width}.html"
    # A frame has the colour scheme of the page around it.
    frame.write_text(
        '<!doctype html><meta name="color-scheme" content="light dark"><style>'
        "html { color-scheme: light dark } body { margin: 0 } iframe { border: 0; display: block }"
        f'</style><iframe width="{width}" height="{height}" srcdoc="{html.escape(text)}"></iframe>'
        "<script>onload = () => { const told = frames[0].document.getElementById('measured'); "
        "if (told) document.body.append(told) }</script>",
        encoding="utf-8",
    )
    return frame


def dump(page: Path, folder: Path, width: int, height: int, scheme: Scheme = "light") -> str:
    """The document after its scripts have run."""
    return _run(["--dump-dom", *_window(width, height, scheme), page.as_uri()], folder)


def screenshot(page: Path, picture: Path, width: int, height: int, scheme: Scheme) -> None:
    """Take a picture of a page; of a narrow one with blank space at its right."""
    copy = framed(without_policy(page.read_text(encoding="utf-8")), picture.parent, width, height)
    window = _window(width, height, scheme)
    _run([f"--screenshot={picture}", *window, copy.as_uri()], picture.parent)


def _window(width: int, height: int, scheme: Scheme) -> list[str]:
    # Of blink::mojom::PreferredColorScheme: 0 is dark, 1 is light.
    prefers = {"dark": 0, "light": 1}[scheme]
    return [f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={prefers}"]


def _run(options: list[str], folder: Path) -> str:
    program = chromium()
    assert program is not None
    words = [
        program, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    if os.geteuid() == 0:
        words.append("--no-sandbox")
    done = subprocess.run(
        [*words, *options], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """A port of this computer that notes the first line of whatever is asked of it."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    asked.append(peer.recv(4096).decode("latin-1").split("\r\n")[0])
                    peer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], asked
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def asked_for(page: Path, folder: Path) -> list[str]:
    """What a page asks the network for, every request sent through a proxy that says no."""
    with listening() as (port, asked):
        proxy = [f"--proxy-server=127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>"]
        _run([*proxy, "--dump-dom", page.as_uri()], folder)
    return [line for line in asked if not any(host in line for host in ITS_OWN)]
