"""A headless Chromium that reaches no network, for pages on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def missing_program() -> str | None:
    """What has to be installed before a browser can be opened; None when nothing."""
    if not any(map(shutil.which, BROWSERS)):
        return "no Chromium on the PATH (Debian: apt-get install chromium)"
    return None if shutil.which(DRIVER) else f"no {DRIVER} on the PATH (Debian: apt-get install chromium-driver)"


@contextmanager
def open_chromium(width: int = 1280, height: int = 900) -> Iterator[webdriver.Chrome]:
    """A browser with a fresh profile and a page area of width x height pixels; its console is logged."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which(DRIVER)))
        try:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            # Without a window, focus events would not be sent.
            driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
            yield driver
        finally:
            driver.quit()


def open_page(driver: webdriver.Chrome, path: Path) -> None:
    """Opens a page on disk and waits until it has been painted."""
    driver.get(path.resolve().as_uri())
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
