"""A line to the server that a test can break, and a schema that only the test knows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ...postgres import fresh_schema, server_url
from .proxy import Proxy, open_proxy


@pytest.fixture
def schema() -> Iterator[str]:
    with fresh_schema() as schema:
        yield schema


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with open_proxy(server_url()) as proxy:
        yield proxy
