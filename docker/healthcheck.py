"""Exit 0 if a container does its work. Standard library only, as it is asked every few seconds.

healthcheck.py server CA    the SuperLink answers, and other machines could talk to it by TLS
healthcheck.py node STATE   the server has accepted the node and still answers it
"""

import json
import socket
import ssl
import sys
import urllib.request
from pathlib import Path

SECONDS = 5
CONTROL = "https://127.0.0.1:8000/health"


def server(authority: str) -> str:
    """Why the server cannot serve; empty if it can. ``deployment.json`` is beside ca.crt."""
    context = ssl.create_default_context(cafile=authority)
    deployment = Path(authority).with_name("deployment.json")
    fleet = ("127.0.0.1", int(json.loads(deployment.read_text("utf-8"))["port"]))
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(CONTROL, timeout=SECONDS):
            pass
    except OSError as error:
        return f"the SuperLink does not answer: {error}"
    context.set_alpn_protocols(["h2"])  # gRPC
    try:
        with socket.create_connection(fleet, SECONDS) as plain:
            context.wrap_socket(plain, server_hostname=fleet[0]).close()
    except OSError as error:
        return f"the fleet port does not answer: {error}"
    return ""


def node(state: str) -> str:
    """Why the node takes no part; empty if it does. See lumos_core.deployment.connection_log."""
    try:
        found = json.loads((Path(state) / "connection.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        return f"not started: {error}"
    return "" if found["state"] == "connected" else f"{found['state']}, since {found['since']}"


if __name__ == "__main__":
    reason = {"server": server, "node": node}[sys.argv[1]](sys.argv[2])
    print(reason or "healthy")
    sys.exit(1 if reason else 0)
