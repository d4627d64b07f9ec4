"""What commands say of the user that runs them."""

import os

from nobody import as_root

from harmonia_py.commands.shared.catalog import user

NAMELESS = 54321


@as_root
def test_a_user_without_a_name_is_in_the_audit_log_with_its_number() -> None:
    """In a container with another user, `token create` ended with a KeyError, `key create` with one after its work."""
    os.seteuid(NAMELESS)
    try:
        assert user() == f"user {NAMELESS}"
    finally:
        os.seteuid(0)
