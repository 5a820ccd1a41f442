"""A directory that grew the upstream way is taken as it is, and what is not ours in it stays as it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regional_keystone.key_directory import LEDGER, examine, read_directory, write_directory
from tests.language.test_key_directory import check_slow_reader, key, upstream_read


def grow(path, turns):
    """`fernet_setup`, then a `fernet_rotate` for each of these `max_active_keys`, in Keystone's order of steps."""
    path.mkdir(mode=0o700)
    made = iter(range(1000))

    def stage():
        (path / "0.tmp").write_bytes(key(f"grown {next(made)}"))
        (path / "0.tmp").chmod(0o600)
        (path / "0.tmp").rename(path / "0")

    stage()
    for most in (3, *turns):
        names = sorted(upstream_read(path))
        (path / "0").rename(path / str(names[-1] + 1))
        stage()
        names = sorted({*names, names[-1] + 1} - {0})
        for name in names[: max(0, len(names) - (most - 1))]:
            (path / str(name)).unlink()


FOREIGN = {".hidden": b"x", "README": b"ours", "0.tmp": b"half a key", "keys.tar": b"\x00" * 50, "1.bak": b"y"}
histories = st.lists(st.integers(2, 8), max_size=12)


@settings(max_examples=15)
@given(histories, st.lists(st.integers(1, 16), max_size=2), st.sets(st.sampled_from(sorted(FOREIGN))), st.booleans())
def test_it_is_taken_as_it_is_over_turns_and_foreign_files_stay(tmp_path_factory, history, directories, foreign, links):
    path = tmp_path_factory.mktemp("grown") / "keys"
    grow(path, history)
    for name in foreign:
        (path / name).write_bytes(FOREIGN[name])
        (path / name).chmod(0o644)
    numbers = {str(name) for name in directories} - {file.name for file in path.iterdir()}
    for name in numbers:
        (path / name).mkdir()
        (path / name / "inside").write_bytes(b"z")
    if links:
        (path / "link").symlink_to("nowhere")
    grown, found = upstream_read_files(path), examine(path)
    assert (found.damage, found.lost) == ((), False)
    assert found.ring == read_directory(path)
    assert dict(found.ring.numbers) == grown, "another key or another number than the file's"
    ring = found.ring
    for turn in range(3):  # the first gives every key a file that lasts
        retired = sorted(ring.numbers)[1:2] if len(ring.numbers) > 2 else ()
        after = ring.rotated(key(f"turn {turn}"), retired) if turn else ring
        seen = []
        write_directory(path, after, lambda name: seen.append(upstream_read_files(path)))  # noqa: B023
        check_slow_reader([*seen, upstream_read_files(path)], ring, after)
        assert examine(path) == (after, False, after.epoch, after.fingerprint, ())
        ring = after
    assert {name: (path / name).read_bytes() for name in foreign} == {name: FOREIGN[name] for name in foreign}
    assert all((path / name / "inside").read_bytes() == b"z" for name in numbers)
    known = {*map(str, upstream_read_files(path)), *foreign, *numbers, LEDGER, *["link"] * links}
    assert {file.name for file in path.iterdir()} == known


def upstream_read_files(path):
    """As `upstream_read`, where some numbers are no files."""
    keys = {int(file.name): file.read_bytes() for file in path.iterdir() if file.name.isdigit() and file.is_file()}
    return {number: content for number, content in keys.items() if content}


@pytest.mark.parametrize("turns", [[], [3] * 4, [5] * 3, [5] * 6, [8, 8, 8, 3], [2, 2]])
def test_the_shapes_of_the_reference_are_read_by_their_names(tmp_path, turns):
    grow(tmp_path / "keys", turns)
    assert dict(read_directory(tmp_path / "keys").numbers) == upstream_read(tmp_path / "keys")


def test_where_the_staged_key_should_be_something_else_is_refused_and_stays(tmp_path):
    grow(tmp_path / "keys", [])
    ring = read_directory(tmp_path / "keys")
    (tmp_path / "keys" / "0").unlink()
    (tmp_path / "keys" / "0").mkdir()
    with pytest.raises(Exception, match="keys/0: no file, so that no key can be staged; move it away"):
        write_directory(tmp_path / "keys", ring)
    assert (tmp_path / "keys" / "0").is_dir()
