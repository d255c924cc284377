"""Random programs have the same results on a real ZooKeeper and on the embedded server."""

from __future__ import annotations

import os

import generate
import pytest
from compare import Comparison, Disagreement, shorten

PROGRAMS = int(os.environ.get("CORRAL_DIFFERENTIAL_PROGRAMS", "1000"))
SEED = os.environ.get("CORRAL_DIFFERENTIAL_SEED", "")


@pytest.mark.timeout(120 + PROGRAMS)
def test_random_programs_lead_to_the_same_on_both_servers(compared: Comparison) -> None:
    for number in range(PROGRAMS):
        program = generate.program(number, SEED)
        try:
            compared(program)
        except Disagreement as error:
            first = error
        else:
            continue
        compared(shorten(program, compared))
        pytest.fail(f"now and then, program {number} of seed {SEED!r}: {first}")
