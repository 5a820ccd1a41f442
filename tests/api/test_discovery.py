"""Versions and the JSON home, which need nobody and nothing."""

import json
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden" / "upstream" / "jsonhome.json"
HOME = {"Accept": "application/json-home"}


async def test_the_versions_are_those_of_upstream(world, stranger):
    answer = await world.ask("GET", "/")
    assert answer.status == 300
    assert answer.headers["Location"] == "http://127.0.0.1:5000/v3/"
    (version,) = json.loads(answer.body)["versions"]["values"]
    assert (await stranger("GET", "")).body == {"version": version}
    assert (version["id"], version["status"]) == ("v3.14", "stable")


async def test_everything_in_the_json_home_is_where_upstream_has_it(stranger):
    answer = await stranger("GET", "", headers=HOME)
    assert answer.headers["Content-Type"] == "application/json-home"
    recorded = json.loads(GOLDEN.read_text())["body"]["resources"]
    ours = answer.body["resources"]
    strange = {name: one for name, one in ours.items() if recorded.get(name) != one}
    assert strange == {}
    assert len(ours) > 40


async def test_the_best_liked_form_is_given(stranger):
    liked = {
        "application/json;q=0.5, application/json-home": True,
        "application/json-home;q=0.1, */*": False,
        "x;q=y": False,
    }
    for accept, is_home in liked.items():
        assert ("resources" in (await stranger("GET", "", headers={"Accept": accept})).body) is is_home
