"""A browser that looks at status pages: a program of its own, for Playwright has a loop of its own.

It reads commands from standard input, each a line of JSON with the name of a method of ``Browser``
and its arguments, and answers each with a line of JSON. Its argument is the path of Chromium.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from typing import Any

from playwright.sync_api import Page, sync_playwright

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
MILLISECONDS = 110_000.0
"""What Chromium may take to start, and a page for anything."""

SEVERE = ("serious", "critical")


class Browser:
    """Chromium, with one page at a time."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self._axe = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
        self._page: Page | None = None
        self._said: list[str] = []
        self._has_script = True

    def open(self, url: str, width: int = 1200, scheme: str = "light", script: bool = True) -> None:
        """Open a page, and leave the one before."""
        if self._page is not None:
            self._page.context.close()
        context = self._chromium.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        context.set_default_timeout(MILLISECONDS)
        self._page = page = context.new_page()
        self._said, self._has_script = [], script
        page.on("console", lambda message: self._said.append(message.text))
        page.on("pageerror", lambda error: self._said.append(str(error)))
        page.on("requestfailed", lambda request: self._said.append(request.url))
        page.goto(url)

    def look(self) -> dict[str, Any]:
        """Return what there is to see: text, width, what axe finds wrong, what the browser says."""
        page, found = self.page, []
        if self._has_script:
            page.evaluate(self._axe)
            found = page.evaluate("axe.run()")["violations"]
        return {
            "text": page.inner_text("body"),
            "width": page.evaluate("document.documentElement.scrollWidth"),
            "wrong": [
                f"{it['id']}: {it['nodes'][0]['html']}" for it in found if it["impact"] in SEVERE
            ],
            "said": [text for text in self._said if not text.endswith("/events")],
        }

    def until(self, name: str, text: str) -> str:
        """Wait until a section has this text; return all of it."""
        self.page.locator(f"#{name}", has_text=text).wait_for()
        return self.page.inner_text(f"#{name}")

    def until_not(self, name: str, text: str) -> str:
        """Wait until a section has another text; return it."""
        differs = "([name, text]) => document.getElementById(name).innerText !== text"
        self.page.wait_for_function(differs, arg=[name, text])
        return self.page.inner_text(f"#{name}")

    def press(self) -> str:
        """Press the button, by the keyboard; return what the page says then."""
        self.page.get_by_role("button", name="New identity").focus()
        self.page.keyboard.press("Enter")
        done = self.page.locator(".done:target")
        done.wait_for(state="visible")
        return done.inner_text()

    def shoot(self, path: str, height: int) -> None:
        """Take a picture of the upper part of the page."""
        size = self.page.viewport_size
        assert size is not None
        self.page.set_viewport_size({"width": size["width"], "height": height})
        self.page.screenshot(path=path)

    @property
    def page(self) -> Page:
        """The page that is open."""
        assert self._page is not None, "no page is open"
        return self._page


def main() -> None:
    """Do what the lines of standard input say, to its end."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=sys.argv[1], args=[*QUIET], timeout=MILLISECONDS
        )
        browser = Browser(chromium)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(getattr(browser, name)(*arguments)), flush=True)
        chromium.close()


if __name__ == "__main__":
    main()
