"""Following through broken connections, with a client that breaks them on purpose."""

import io
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from cluster import follow
from cluster.errors import ClusterError

LOG = "one\ntwo\nthree\nfour\n"


class BreakingClient:
    """Streams a growing log from its beginning each time, and breaks after each of `pieces` but
    the last."""

    def __init__(self, pieces, status=JobStatus.SUCCEEDED):
        self.pieces = list(pieces)
        self.status = status

    async def tail_job_logs(self, submission_id):
        length = self.pieces.pop(0) if self.pieces else 0
        for line in LOG[:length].splitlines(keepends=True):
            yield line
        if self.pieces or self.status is None:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_logs(self, submission_id):
        return LOG

    def get_job_info(self, submission_id):
        return SimpleNamespace(status=self.status)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(follow.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("pieces", [[19], [4, 19], [8, 4, 14, 6], [0, 0, 0]])
def test_every_line_is_printed_once_whatever_breaks(pieces):
    client = BreakingClient(pieces)
    output = io.StringIO()
    assert follow._follow(client, "x", follow._Log(client, "x", output)).status == "SUCCEEDED"
    assert output.getvalue() == LOG


def test_a_lost_cluster_is_given_up_in_words():
    client = BreakingClient([], status=None)
    with pytest.raises(ClusterError, match="The job continues without you"):
        follow._follow(client, "x", follow._Log(client, "x", io.StringIO()))


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 7, 7),
        ("FAILED", -9, 137),
        ("FAILED", 0, 1),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_exit_codes(status, driver_exit_code, expected):
    info = SimpleNamespace(
        status=status, driver_exit_code=driver_exit_code, submission_id="x", message="why"
    )
    assert follow._exit_code(info) == expected
