"""The embedded server sends through sockets what its core sends, which is what is compared with a real
server."""

from __future__ import annotations

import fixed
import generate
import pytest
from compare import compare
from program import Program
from runner import run
from servers import MOST, NEVER, SOON, TICK, embedded_server
from sides import SocketSide

from corral.testing import EmbeddedServer

NAMES = ("over a socket", "its core")


@pytest.mark.parametrize(
    ("programs", "sweep"), [(fixed.PROGRAMS, NEVER), (fixed.SWEPT, SOON)], ids=["fixed", "swept"]
)
def test_fixed_programs_lead_to_the_same_over_a_socket(programs: dict[str, Program], sweep: float) -> None:
    with EmbeddedServer(
        tick_time=TICK, max_session_timeout=MOST, container_check_interval=sweep, thread=True
    ) as server:
        over_sockets = SocketSide(server.address, "3.8")
        for number, program in enumerate(programs.values()):
            root = f"/program-{number}"
            compare(
                program, run(program, over_sockets, root), run(program, embedded_server(sweep), root), NAMES
            )


def test_random_programs_lead_to_the_same_over_a_socket() -> None:
    with EmbeddedServer(
        tick_time=TICK, max_session_timeout=MOST, container_check_interval=NEVER, thread=True
    ) as server:
        over_sockets = SocketSide(server.address, "3.8")
        for number in range(50):
            program, root = generate.program(number, "over sockets"), f"/program-{number}"
            compare(
                program, run(program, over_sockets, root), run(program, embedded_server(NEVER), root), NAMES
            )
