"""Commands for boards; the command line finds them by the entry points of the group ``tilewright.commands``."""
