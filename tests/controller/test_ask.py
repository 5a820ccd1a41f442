"""What is said of a controller that does not answer: whether anything may have been done."""

import os
import socket
import threading

import pytest

from controller import ask


@pytest.fixture
def dying(tmp_path):
    """A controller that dies of whatever it is asked."""
    path = tmp_path / "admin.sock"
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(tmp_path, os.O_PATH)  # the names of sockets are short
    listener.bind(f"/proc/self/fd/{directory}/admin.sock")
    os.close(directory)
    listener.listen()

    def die():
        connection, _ = listener.accept()
        connection.recv(10)
        connection.close()

    thread = threading.Thread(target=die)
    thread.start()
    yield path
    thread.join()
    listener.close()


def test_of_a_command_that_was_sent_it_is_not_known_what_came_of_it(dying):
    with pytest.raises(ask.Unanswered, match="whether it has done this is not known, so look before") as error:
        ask.admin(dying, "/keys/rotate", {})
    assert not isinstance(error.value, ask.Absent)


def test_a_question_that_was_not_answered_has_done_nothing(dying):
    with pytest.raises(ask.Unanswered, match="is it running") as error:
        ask.admin(dying, "/keys/status")
    assert "not known" not in str(error.value)


def test_nothing_was_asked_of_a_controller_that_is_not_there(tmp_path):
    with pytest.raises(ask.Absent, match="is it running") as error:
        ask.admin(tmp_path / "admin.sock", "/keys/rotate", {})
    assert "not known" not in str(error.value)
