"""Exit 0 if what a URL names answers: ``tcp://HOST:PORT``, or ``http(s)://…`` with status 200.

For https, the second argument is the file of the authority that must have signed the certificate.
Standard library only: it runs in every image.
"""

import socket
import ssl
import sys
import urllib.request
from urllib.parse import urlsplit

SECONDS = 5


def main(url: str, authority: str | None = None) -> int:
    """The process's exit code."""
    place = urlsplit(url)
    try:
        if place.scheme == "tcp":
            socket.create_connection((place.hostname, place.port), SECONDS).close()
            return 0
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if authority:
            context = ssl.create_default_context(cafile=authority)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(url, timeout=SECONDS) as reply:
            return 0 if reply.status == 200 else 1
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
