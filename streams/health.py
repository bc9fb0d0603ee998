"""``python -m earlybell.streams.health ROLE``: exit with 0 if the role on this machine is ready, else print why not.

For the health checks of containers, and for `earlybell status`. It asks the role's own probes (`streams.probes`), and
knows nothing of what the role does.
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any

from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings, load_settings

TIMEOUT_S = 5.0
#: Addresses that mean "every interface" to a server.
_ANY = {"0.0.0.0", "::", ""}


def report(settings: Settings, role: Role) -> dict[str, Any]:
    """Return what the role's probes say.

    Returns
    -------
    dict
        ``running`` (its probes answer), ``alive``, ``ready``, ``problems`` (why not), ``info`` (model, version and
        process id) and ``url``.
    """
    host = "127.0.0.1" if settings.probe_host in _ANY else settings.probe_host
    port = settings.probe_port(role)
    answer: dict[str, Any] = {"running": False, "alive": False, "ready": False, "problems": [], "info": None}
    answer["url"] = f"http://{host}:{port}"
    try:
        alive, _ = _get(host, port, "/livez")
        ready, problems = _get(host, port, "/readyz")
        _, info = _get(host, port, "/info")
        answer["info"] = json.loads(info)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return answer | {"problems": [f"its probes do not answer: {error}"]}
    if answer["info"].get("role") != role:
        return answer | {"problems": [f"port {port} belongs to something else"], "info": None}
    return answer | {
        "running": True,
        "alive": alive == http.client.OK,
        "ready": ready == http.client.OK,
        "problems": problems.split("\n")[:-1] if ready != http.client.OK else [],
    }


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


if __name__ == "__main__":
    found = report(load_settings(), Role(sys.argv[1]))
    print(*(found["problems"] or ["ready"]), sep="\n")
    sys.exit(0 if found["ready"] else 1)
