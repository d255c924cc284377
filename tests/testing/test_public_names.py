"""The public names of `corral.testing`, and the public members of its classes."""

from __future__ import annotations

import inspect
import types

import pytest

import corral.testing

# The public members of each class that does not inherit all of them, and has more than fields.
MEMBERS = {
    "BlackHole": "arrived",
    "ContainerServer": "address close four_letter_word kill pause resume role running start stop",
    "EmbeddedServer": "address close expire four_letter_word kill pause paused reconfigure resume role running start stop zookeeper",
    "FaultHit": "",
    "FaultProxy": "accepted address black_hole connections cut cut_at delay expire half_open record refuse",
    "LocalEnsemble": "add_server close followers hosts kill leader partition remove_server servers start stop superuser",
    "LocalServer": (
        "address classpath close four_letter_word kill log missing pause paused pid resume role running "
        "secure_address start stop wipe"
    ),
    "Server": "address close four_letter_word kill pause resume role running start stop",
    "TcpProxy": "accepted address black_hole connections cut delay half_open refuse",
    "Withheld": "arrived",
}


def test_exports_are_what_is_there() -> None:
    """`__all__` has every public name of the package once, and the package has no others except modules."""
    names = corral.testing.__all__
    there = {
        name
        for name, value in vars(corral.testing).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert len(names) == len(set(names))
    assert set(names) == there


@pytest.mark.parametrize("name", MEMBERS)
def test_members_are_public_on_purpose(name: str) -> None:
    """A class has exactly these public members; each of them has a docstring where it is defined."""
    cls = getattr(corral.testing, name)
    members = [member for member in dir(cls) if not member.startswith("_")]
    assert members == MEMBERS[name].split()
    assert [member for member in members if not getattr(cls, member).__doc__] == []


def test_every_export_is_documented() -> None:
    """Each class and function has a docstring."""
    exported = [getattr(corral.testing, name) for name in corral.testing.__all__]
    assert [
        each for each in exported if (inspect.isclass(each) or inspect.isfunction(each)) and not each.__doc__
    ] == []
