"""A browser without a network, for the pages that evaluations write."""

from __future__ import annotations

import io
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def open_offline(browser):
    """Open a page that requests nothing but its own file, logs no error and is legible."""

    @contextmanager
    def opened(path):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.context.set_offline(True)
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        yield page
        assert_legible(page)
        page.close()
        assert all(url == path.as_uri() or url.startswith("data:") for url in requests)
        assert not errors

    return opened


def assert_legible(page) -> None:
    """No element is wider than the page, and every figure is drawn near its nominal size."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    for figure in page.locator("svg").all():
        shown = np.asarray(Image.open(io.BytesIO(figure.screenshot())).convert("L"), float)
        assert shown.std() > 5, "the figure is blank"
        scale = figure.evaluate("it => it.getBoundingClientRect().width / it.width.baseVal.value")
        assert scale > 0.8
