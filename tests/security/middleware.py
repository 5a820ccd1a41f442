"""A service of a region behind stock keystonemiddleware, as every cloud has some, that says whom it took a caller for."""

import contextlib
import http.client
import json
import subprocess
import sys

COMMAND = [sys.executable, "-P", "-W", "ignore", "-m", "controller.sample_service"]


@contextlib.contextmanager
def service(regions, name):
    """Asks a compute service in this region: (status, what it knows of the caller) for each request."""
    url = regions.members[name].url
    settings = {"auth_url": url, "www_authenticate_uri": url, "auth_type": "password", "service_type": "compute"}
    settings |= {"username": "admin", "password": regions.home.password(), "project_name": "admin"}
    settings |= {"user_domain_id": "default", "project_domain_id": "default", "region_name": name}
    pipe = subprocess.PIPE
    with subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        process.stdin.write(json.dumps(settings) + "\n")
        process.stdin.flush()
        port = int(process.stdout.readline())

        def ask(method, path, token="", **headers):
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            sent |= {"X-Auth-Token": token} if token else {}
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
                connection.request(method, path, headers=sent)
                answer = connection.getresponse()
                text = answer.read()
            return answer.status, json.loads(text) if answer.status == 200 else None

        yield ask
        process.stdin.close()
