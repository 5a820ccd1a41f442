"""`rkctl region add`: the token alone on standard output, and what a site on Cassandra needs beside it."""

import asyncio
import json
import subprocess
import sys

import pytest

from tests.controllers import config_in, operated


async def region_add(*words):
    return await region("add", *words)


async def region(*words):
    program = [sys.executable, "-m", "controller", "region", *map(str, words)]
    return await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=60, check=False)


async def test_a_token_and_nothing_else(tmp_path):
    config = config_in(tmp_path)
    async with operated(config):
        done = await region_add("Oslo", "--config", config)
        removed = await region("remove", "Oslo", "--yes", "--config", config)
    assert (done.returncode, done.stderr, len(done.stdout.split())) == (0, "", 1)
    assert (removed.returncode, removed.stderr) == (0, "")


@pytest.mark.usefixtures("empty")
async def test_on_cassandra_the_next_command_is_told_beside_the_token(tmp_path, section_text):
    config = config_in(tmp_path, section_text)
    async with operated(config):
        done = await region_add("Oslo", "--config", config)
        as_json = await region_add("Bergen", "--config", config, "--json")
        removed = await region("remove", "Oslo", "--yes", "--config", config)
    assert (done.returncode, len(done.stdout.split())) == (0, 1)
    assert f"rkctl db site Oslo --password-file secrets/rk_site_Oslo --config {config}" in done.stderr
    told = json.loads(as_json.stdout)
    assert (told["name"], told["cassandra"]) == ("Bergen", True)
    assert "rkctl db site Bergen " in as_json.stderr
    assert (removed.returncode, "turn the keys twice" in removed.stdout) == (0, True)
    assert "if it was stolen, condemn its keys: `rkctl keys compromised --site Oslo`" in removed.stdout
    assert f"rkctl db site Oslo --remove --config {config}" in removed.stderr
