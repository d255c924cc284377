"""Stored programs have the same results on a real ZooKeeper and on the embedded server."""

from __future__ import annotations

import fixed
import pytest
from compare import Comparison
from program import Program


@pytest.mark.parametrize("program", fixed.PROGRAMS.values(), ids=fixed.PROGRAMS)
def test_a_fixed_program_leads_to_the_same_on_both_servers(compared: Comparison, program: Program) -> None:
    compared(program)


@pytest.mark.parametrize("program", fixed.SWEPT.values(), ids=fixed.SWEPT)
def test_what_a_server_removes_by_itself_leads_to_the_same_on_both(
    compared_sweeping: Comparison, program: Program
) -> None:
    compared_sweeping(program)
