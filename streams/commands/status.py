"""`earlybell status`: which servers and roles run on this machine, where, and whether they are well."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from earlybell.deploy.local import stack
from earlybell.inference.kernels import library
from earlybell.streams import health, role_history, sentences
from earlybell.streams.exit_codes import NOT_RUNNING, UNHEALTHY
from earlybell.streams.role_history import History
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings

_INDENT = " " * 27


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the state and addresses of the servers and the roles, and the form of the kernels that this machine runs.

    Returns
    -------
    int
        The exit code: 0 if all are healthy; 1 if a server does not answer, or a role is not ready or keeps dying;
        otherwise 3 if a role does not run.
    """
    with ThreadPoolExecutor(1 + len(Role)) as threads:
        asked = {role: threads.submit(health.report, settings, role) for role in Role}
        servers = threads.submit(stack.status).result()
        roles = {role: report.result() for role, report in asked.items()}
    histories = role_history.read(settings.group_prefix)
    for role, report in roles.items():
        history = histories.get(role, History())
        report["restarts"] = history.restarts
        report["last_death"] = asdict(history.last_death) if history.last_death else None
    form, forms, missing = library.chosen_form(), library.forms(), library.missing()
    if as_json:
        kernels = {"form": form, "forms": forms, "missing": missing}
        print(json.dumps({**servers, "roles": roles, "kernels": kernels}, indent=2))
    else:
        for line in _lines(servers, roles):
            print(line)
        print(f"{'kernels':<10}{form or 'missing':<17}{missing or 'of ' + ', '.join(forms)}")
        if not servers["running"]:
            print("`earlybell up` starts the servers")
        elif not any(report["running"] for report in roles.values()):
            print("`earlybell run` starts the roles")
    dying = any(report["last_death"] and not report["running"] for report in roles.values())
    unready = any(report["running"] and not report["ready"] for report in roles.values())
    if not servers["running"] or dying or unready:
        return UNHEALTHY
    return 0 if all(report["running"] for report in roles.values()) else NOT_RUNNING


def _lines(servers: Mapping[str, Any], roles: Mapping[Role, Mapping[str, Any]]) -> Iterator[str]:
    for name in ("kafka", "postgres"):
        server = servers[name]
        state = "running" if server["healthy"] else "not answering" if server["running"] else "not running"
        yield f"{name:<10}{state:<17}{server['address'] or ''}".rstrip()
    for role, report in roles.items():
        info = report["info"] or {}
        if report["running"]:
            state = "ready" if report["ready"] else "not ready"
        else:
            state = "restarting" if report["last_death"] else "not running"
        details = [*report["problems"]] if report["running"] else []
        if info.get("lag"):
            details.append(", ".join(f"{topic}: {behind:,} behind" for topic, behind in sorted(info["lag"].items())))
        if info.get("model"):
            details.append(sentences.model(info["model"]))
        if report["running"]:
            details.append(f"{report['url']}, process {info['pid']}, up {_duration(time.time() - info['started_at'])}")
        if death := report["last_death"]:
            times = "once" if report["restarts"] == 1 else f"{report['restarts']} times"
            details.append(f"died {times}, last {_duration(time.time() - death['at'])} ago: {death['cause']}")
        first, *others = details or [""]
        yield f"{role:<10}{state:<17}{first}".rstrip()
        yield from (f"{_INDENT}{detail}" for detail in others)


def _duration(seconds: float) -> str:
    for limit, size, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
