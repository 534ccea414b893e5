"""The mistake of a user, as opposed to one of the program: told in one line, without a traceback."""

from tilewright.hw.config import ConfigError

__all__ = ["UserError", "ConfigError", "USER_ERRORS"]


class UserError(Exception):
    """Something that the user can put right; the message names what is wrong and what to change."""


USER_ERRORS = (UserError, ConfigError)
"""What the command line turns into one line on standard error and exit code 2."""
