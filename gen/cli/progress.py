"""Progress on standard error beside a text that grows on standard output."""

import sys

from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = ["Progress"]


class Progress:
    """What is being done, on standard error; text as it comes, on standard output.

    Where both are one terminal, the text grows in the lines that tell the progress, and is printed when they go.
    """

    def __init__(self):
        self._console = Console(stderr=True)
        self._terminal = self._console.is_terminal
        self._one = self._terminal and sys.stdout.isatty()
        self._text, self._doing, self._live = "", "", None

    def start(self, doing):
        if self._terminal:
            self._live = Live(console=self._console, transient=True, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self.update(doing)

    def stop(self):
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._one:
            sys.stdout.write(self._text)
        if self._text:
            sys.stdout.write("\n")
        sys.stdout.flush()

    def update(self, doing):
        """Tell what is being done."""
        self._doing = doing
        if self._live is not None:
            self._live.update(Text(f"{self._text}\n[{doing}]" if self._one and self._text else f"[{doing}]"))

    def line(self, text):
        """Tell that a step is done, where no terminal shows what is being done."""
        if not self._terminal:
            print(text, file=sys.stderr, flush=True)

    def show(self, text):
        """Print a piece of text; returns it."""
        self._text += text
        if not self._one:
            sys.stdout.write(text)
            sys.stdout.flush()
        self.update(self._doing)
        return text
