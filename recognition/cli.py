"""The shape every command shares: the same flags, one-line errors, and exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from recognition.console import setup_logging
from recognition.errors import ArcShardError
from recognition.work.old_words import current_word


def make_parser(prog: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows the module's docstring and knows --quiet and --debug."""
    summary, _, rest = (doc or "").strip().partition("\n")
    parser = argparse.ArgumentParser(
        prog=prog, description=summary, epilog=rest.strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and debug messages")
    return parser


def run_command(
    parser: argparse.ArgumentParser,
    body: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
    *,
    intermixed: bool = False,
) -> int:
    """Parse `argv`, run `body`, and return the exit status. `intermixed` allows flags between positionals.

    0 done, 1 a user or data error (one line on stderr; the traceback only with --debug), 2 bad usage (argparse exits
    by itself), 130 interrupted, 143 ended by SIGTERM, which leaves as little behind.
    """
    args = parser.parse_intermixed_args(argv) if intermixed else parser.parse_args(argv)
    setup_logging(quiet=args.quiet, debug=args.debug)
    try:
        with _termination_interrupts():
            body(args)
    except ArcShardError as err:
        if args.debug:
            traceback.print_exc()
        sys.stderr.write(f"{parser.prog}: error: {err}\n")
        return 1
    except KeyboardInterrupt as err:
        sys.stderr.write(f"{parser.prog}: interrupted\n")
        return 128 + signal.SIGTERM if isinstance(err, _Terminated) else 130
    except BrokenPipeError:
        # The reader of our stdout left (`| head`); nobody reads the error.
        sys.stderr.close()
        return 0
    return 0


class _Terminated(KeyboardInterrupt):
    """SIGTERM has arrived."""


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Have SIGTERM end what runs inside as SIGINT does, so that it removes what it has half done.

    Leaves a handler that somebody has set alone, and threads, which cannot set one.
    """
    is_ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: object) -> None:
        is_owner = os.getpid() == owner
        # A second one must not end the tidying; a fork of this process, such as a worker, ends as it always did.
        signal.signal(signal.SIGTERM, signal.SIG_IGN if is_owner else signal.SIG_DFL)
        if is_owner:
            raise _Terminated
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class OldFlag(argparse.Action):
    """A flag under the name of older versions: sets its `dest`, and says what it is called now."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, **{**more, "help": argparse.SUPPRESS})

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Take the value."""
        sys.stderr.write(f"{parser.prog}: {option} is called --{self.dest.replace('_', '-')} now\n")
        setattr(namespace, self.dest, values)


def current_choice(flag: str) -> Callable[[str], str]:
    """Return how to parse a flag's value that older versions may have spelled otherwise: it says what it is now."""

    def parse(text: str) -> str:
        word = current_word(text)
        if word != text:
            sys.stderr.write(f"{flag} {text} is called {flag} {word} now\n")
        return word

    return parse


def positive_int(text: str) -> int:
    """Parse a flag's value as an integer of at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value


def non_negative_int(text: str) -> int:
    """Parse a flag's value as an integer of at least zero."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative")
    return value
