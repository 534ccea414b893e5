"""The command ``tilewright``. Each group of commands is a module of this package with a function ``register(app)``.

To add a group, write its module and name it in ``GROUPS``. Groups of other packages are found by their entry points: a
function ``register`` under ``tilewright.commands`` in ``pyproject.toml``. A module imports what is heavy inside its
commands, so that ``tilewright --help`` answers at once.
"""

import sys
from importlib import import_module
from importlib.metadata import entry_points

import typer

from tilewright.gen.errors import USER_ERRORS, ToolError

__all__ = ["app", "main"]

GROUPS = ("generate", "models", "run", "compile", "complete", "evaluate", "layers", "bench", "report", "synth",
          "function", "soak")
CHECK_FAILED, USAGE_ERROR = 1, 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Generate, prove and run accelerators for small language models.")
for _group in GROUPS:
    import_module(f"{__name__}.{_group}").register(app)
for _point in sorted(entry_points(group="tilewright.commands"), key=lambda point: point.name):
    _point.load()(app)


def _end(code, message):
    print(f"tilewright: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def main(arguments=None):
    """Run the command line; exit code 0, 1 where a check or a tool failed, 2 for a user's mistake, told in one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=arguments or ["--help"], prog_name="tilewright", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except USER_ERRORS as error:
        _end(USAGE_ERROR, str(error))
    except ToolError as error:
        _end(CHECK_FAILED, str(error))
    except typer.TyperException as error:
        _end(USAGE_ERROR, error.format_message())
    sys.exit(code or 0)
