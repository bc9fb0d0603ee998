"""The one parser for the database's URL. It is libpq's own, so that Earlybell and `psql` agree on what a URL means.

A URL that libpq would take for something else than it looks like is refused: a password with an unescaped "@" or "/"
ends in the middle for libpq, and its rest would appear in messages as the name of a host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from earlybell.errors import UserError
from earlybell.masking import MASK, names_secret

_FORM = (
    "use postgresql://user:password@host:5432/database, with other characters than letters and digits percent-encoded"
)


class InvalidDatabaseUrl(UserError):
    """The URL cannot be used. The text does not quote it."""


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A database's URL, as libpq understands it.

    Attributes
    ----------
    parameters
        libpq's connection parameters; ``host`` and ``port`` may be lists with commas (several hosts, of which libpq
        takes the first that fits).
    """

    parameters: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> DatabaseUrl:
        """Parse a URL.

        Raises
        ------
        InvalidDatabaseUrl
            It is not the URL of a Postgres database, or is ambiguous.
        """
        import psycopg2
        from psycopg2.extensions import parse_dsn

        # Hosting services hand out "postgres://", and SQLAlchemy's URLs may name a driver.
        scheme, separator, rest = url.partition("://")
        database, _, _driver = scheme.partition("+")
        if not separator or not re.fullmatch(r"\w+", database):
            raise InvalidDatabaseUrl(f"the database URL cannot be parsed: {_FORM}")
        if database not in {"postgresql", "postgres"}:
            raise InvalidDatabaseUrl(
                f"{database} databases are not supported: use a URL such as postgresql://host/database"
            )
        authority, _, path = rest.partition("/")
        try:
            parameters = parse_dsn(f"postgresql://{rest}")
        except (psycopg2.Error, ValueError):  # the latter for U+0000
            parameters = {}
        ports = [port for port in parameters.get("port", "").split(",") if port]
        if (
            (rest and not parameters)
            or authority.count("@") > 1
            or "@" in path.partition("?")[0]
            or not all(port.isdecimal() for port in ports)
        ):
            raise InvalidDatabaseUrl(f"the database URL cannot be parsed: {_FORM}")
        return cls(parameters)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The password and the other secrets, decoded."""
        return tuple(value for name, value in self.parameters.items() if names_secret(name))

    @property
    def address(self) -> str:
        """``postgresql://user@host:port/database``: for messages. It has no secrets and no options."""
        return self._url("")

    @property
    def masked(self) -> str:
        """The whole URL with its secrets masked: for listings."""
        shown = {"user", "password", "host", "port", "dbname"}
        options = {
            name: MASK if names_secret(name) else quote(value, safe="/,:")
            for name, value in self.parameters.items()
            if name not in shown
        }
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return self._url(f":{MASK}" if "password" in self.parameters else "") + (f"?{query}" if query else "")

    def _url(self, password: str) -> str:
        user = quote(self.parameters.get("user", ""), safe="")
        hosts = self.parameters.get("host", "localhost").split(",")
        ports = self.parameters.get("port", "").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        places = ",".join(_place(host, port) for host, port in zip(hosts, ports, strict=False))
        login = f"{user}{password}@" if user or password else ""
        return f"postgresql://{login}{places}/{quote(self.parameters.get('dbname', ''), safe='')}"


def _place(host: str, port: str) -> str:
    name = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{name}:{port}" if port else name
