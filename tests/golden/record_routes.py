#!/usr/bin/env python3
"""Record the URL map and the JSON home document of Keystone 30.0.0.

Writes tests/golden/upstream_routes.txt (METHODS, path and Flask endpoint of
every route) and tests/golden/upstream/jsonhome.json.  Run with the python of
a throw-away virtual environment:

    python3 -m venv ks30
    ks30/bin/pip install keystone==30.0.0
    ks30/bin/python tests/golden/record_routes.py
"""

import base64
import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    sys.argv = sys.argv[:1]
    with tempfile.TemporaryDirectory() as tmp:
        conf = os.path.join(tmp, "keystone.conf")
        keys = os.path.join(tmp, "keys")
        os.mkdir(keys)
        for n in "01":
            with open(os.path.join(keys, n), "wb") as f:
                f.write(base64.urlsafe_b64encode(os.urandom(32)))
        with open(conf, "w") as f:
            f.write(f"""[database]
connection = sqlite://
[fernet_tokens]
key_repository = {keys}
[fernet_receipts]
key_repository = {keys}
[credential]
key_repository = {keys}
""")
        os.environ["OS_KEYSTONE_CONFIG_FILES"] = conf
        from keystone.server import wsgi
        from keystone.server.flask import application as appmod
        from keystone.server.flask import core

        seen = []
        real = appmod.application_factory

        def factory(name="public"):
            app = real(name)
            seen.append(app)
            return app

        core.application.application_factory = factory
        wsgi.initialize_public_application()
        app = seen[0]
        # The application is a dispatcher: one Flask application at the root.
        lines = set()
        rows = []
        todo = [("", app)]
        while todo:
            prefix, a = todo.pop()
            for rule in a.url_map.iter_rules():
                methods = ",".join(sorted(rule.methods))
                rows.append((prefix + rule.rule, methods, rule.endpoint))
        for row in sorted(rows):
            lines.add(row)
        with open(os.path.join(HERE, "upstream_routes.txt"), "w") as f:
            f.write("# path | methods | endpoint (Keystone 30.0.0)\n")
            for path, methods, endpoint in sorted(lines):
                f.write(f"{path} | {methods} | {endpoint}\n")
        client = app.test_client()
        r = client.get("/v3", headers={"Accept": "application/json-home"})
        os.makedirs(os.path.join(HERE, "upstream"), exist_ok=True)
        with open(os.path.join(HERE, "upstream", "jsonhome.json"), "w") as f:
            json.dump(
                {"status": r.status_code, "content_type": r.headers["Content-Type"], "body": json.loads(r.data)},
                f,
                indent=1,
                sort_keys=True,
            )
            f.write("\n")
        print(f"{len(lines)} routes, {len(json.loads(r.data)['resources'])} JSON home resources")


if __name__ == "__main__":
    main()
