"""The proxy between nodes and server, as a program: it does what a file says.

    python chaos_proxy.py KIT PORT ADDRESS ORDERS

``ORDERS`` is a JSON file: ``{"status": "INTERNAL", "delay": 0.5}``, either may be missing.
"""

import json
import sys
import time
from pathlib import Path

from fleet_proxy import FleetProxy

ALWAYS = 10**9
LOOK_SECONDS = 0.1


def main() -> None:
    kit, port, address, orders = sys.argv[1:]
    proxy = FleetProxy(Path(kit), int(port), address)
    print(f"proxy on port {proxy.port}", flush=True)
    known = ""
    while True:
        found = Path(orders).read_text()
        if found != known:
            known, order = found, json.loads(found)
            proxy.obey()
            proxy.delay = order.get("delay", 0.0)
            if "status" in order:
                proxy.fail(order["status"], ALWAYS)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
