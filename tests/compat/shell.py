"""OpenStackClient in a process of its own that stays for many commands; see stock_verbs.py."""

import contextlib
import json
import pathlib
import subprocess
import sys

PROGRAM = pathlib.Path(__file__).with_name("stock_verbs.py")


@contextlib.contextmanager
def shell(clouds, environment):
    """Plays commands with the clouds of this file: for each (exit code, JSON or text, errors)."""
    words = [sys.executable, PROGRAM, clouds]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as client:

        def play(cloud, *commands):
            print(json.dumps([[cloud, one] for one in commands]), file=client.stdin, flush=True)
            return json.loads(client.stdout.readline())

        yield play
        client.stdin.close()
