"""Plays `openstack` commands, each in a process of its own but with one import of the client for all.

Argument: the path of clouds.yaml. In, a line each: [[cloud, command], ...]; out: [[exit code, JSON or text, errors],
...].
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import shlex
import sys

from openstackclient.shell import OpenStackShell

LONGEST_S = 60
SHOWN = {"create", "show", "list", "issue"}
# what all commands need beside the shell; read once, before the processes part
LOADED = ["keystoneclient.v3.client", "openstack.identity.v3._proxy", "openstackclient.identity.common"]


def play(line):
    """One command: what the shell would have seen of it."""
    cloud, command = line
    words = shlex.split(command)
    verb = next((word for word in words if word in SHOWN), None)
    shape = ["-f", "json"] if verb and "-f" not in words else []
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        shell = OpenStackShell()
        shell.stdout = said
        try:
            code = shell.run(["--os-cloud", cloud, *words, *shape])
        except SystemExit as ended:
            code = ended.code
    text = said.getvalue()
    is_json = (shape or "-f" in words) and text and not code
    return code, json.loads(text) if is_json else text, errors.getvalue()


def main():
    """Plays until its input ends."""
    os.environ["OS_CLIENT_CONFIG_FILE"] = sys.argv[1]
    for module in LOADED:
        importlib.import_module(module)
    play(("", "help user set"))
    for asked in sys.stdin:
        # the client keeps what it has connected to for as long as its process lives
        with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
            answers = pool.map_async(play, json.loads(asked), chunksize=1).get(LONGEST_S)
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
