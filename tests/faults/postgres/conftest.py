"""A line to the server that a test can break, and a store that is put back before each attempt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import psycopg
import pytest

from ...postgres import fresh_schema, server_url
from .proxy import Proxy, open_proxy
from .stage import Template, make_template


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    with fresh_schema() as schema:
        yield anyio.run(make_template, schema)


@pytest.fixture(scope="module")
def stranger(template: Template) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_url(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with open_proxy(server_url()) as proxy:
        yield proxy
