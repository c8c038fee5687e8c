"""Makes a backend from a URL, as it stands in a configuration or on a command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import InvalidOption
from sitq.naming import shown

if TYPE_CHECKING:
    from sitq.backends.postgres import PostgresBackend

__all__ = ["backend_from_url", "postgres_backend"]


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_SQLITE: Mapping[str, Callable[[str], Any]] = {"synchronous": str, "busy_limit": float}
_POSTGRES: Mapping[str, Callable[[str], Any]] = {
    "schema": str,
    "pool_size": int,
    "listen": _truth,
    "answer_limit": float,
    "outage_limit": float,
}


def backend_from_url(url: str) -> Backend:
    """The backend that a URL names, not opened yet.

    Args:
        url: ``sqlite:///tasks.db`` (a fourth slash begins an absolute path; ``sqlite://`` is in
            memory) or ``postgresql://user:password@host:port/database``, with all that libpq takes.
            Options of the backend are parameters: ``?synchronous=NORMAL``, ``?schema=jobs``.

    Raises:
        InvalidOption: it names none, or an option that this backend does not have.
        ImportError: what the backend needs is not installed.
    """
    kind, separator, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
    if separator and kind == "sqlite":
        return _sqlite(url)
    if separator and kind in ("postgresql", "postgres"):
        return _postgres(url)
    raise InvalidOption(
        f"a backend is named by sqlite:///path or postgresql://...: {shown(kind or url)}"
    )


def postgres_backend() -> type[PostgresBackend]:
    """The backend for PostgreSQL, which is not imported before somebody asks for it.

    Raises:
        ImportError: psycopg is not installed.
    """
    try:
        from sitq.backends.postgres import PostgresBackend
    except ModuleNotFoundError as error:
        if error.name not in ("psycopg", "psycopg_pool"):
            raise
        advice = "PostgresBackend needs psycopg: pip install 'sitq[postgres]'"
        raise ImportError(advice, name=error.name) from error
    return PostgresBackend


def _sqlite(url: str) -> SQLiteBackend:
    parts = urlsplit(url)
    if parts.netloc or parts.fragment:
        raise InvalidOption(f"a file is named after three slashes, sqlite:///path: {shown(url)}")
    options, others = _options(parts.query, _SQLITE)
    if others:
        raise InvalidOption(f"SQLiteBackend has no option {shown(others[0][0])}")
    path = unquote(parts.path.removeprefix("/"))
    return SQLiteBackend(path or ":memory:", **options)


def _postgres(url: str) -> Backend:
    before, _, query = url.partition("?")
    options, others = _options(query, _POSTGRES)
    rest = urlencode(others, quote_via=quote)  # libpq does not take a plus for a space
    return postgres_backend()(f"{before}?{rest}" if others else before, **options)


def _options(
    query: str, known: Mapping[str, Callable[[str], Any]]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The options of a backend that a query names, and what else it names."""
    options: dict[str, Any] = {}
    others: list[tuple[str, str]] = []
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            others.append((name, text))
            continue
        try:
            options[name] = known[name](text)
        except (ValueError, KeyError):
            raise InvalidOption(
                f"the URL gives {name} a value it cannot have: {shown(text)}"
            ) from None
    return options, others
