"""What the command line tells in one line, without a traceback: a user's mistake, or a tool that failed."""

from tilewright.hw.config import ConfigError

__all__ = ["UserError", "ToolError", "ConfigError", "USER_ERRORS"]


class UserError(Exception):
    """Something that the user can put right; the message names what is wrong and what to change."""


class ToolError(Exception):
    """A simulator or another tool failed; the message names its log. The command line's exit code is 1."""


USER_ERRORS = (UserError, ConfigError)
"""What the command line turns into one line on standard error and exit code 2."""
