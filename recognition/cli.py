"""The shape every command shares: the same flags, one-line errors, and exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from recognition.console import ForgivingStream, setup_logging
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
    report: Callable[[str, Exception], None] = lambda line, err: None,
) -> int:
    """Parse `argv`, run `body`, and return the exit status. `intermixed` allows flags between positionals.

    0 done, 1 a user or data error, or one of the system around us (one line on stderr; the traceback only with
    --debug), 2 bad usage (argparse exits by itself), 130 interrupted, 143 ended by SIGTERM, which leaves as little
    behind. `report` is called with that line too.
    """
    _open_streams()
    args = parser.parse_intermixed_args(argv) if intermixed else parser.parse_args(argv)
    setup_logging(quiet=args.quiet, debug=args.debug)
    stderr = ForgivingStream(sys.stderr)
    try:
        with _termination_interrupts():
            body(args)
            _flush_stdout()
    except KeyboardInterrupt as err:
        stderr.write(f"{parser.prog}: interrupted\n")
        return 128 + signal.SIGTERM if isinstance(err, _Terminated) else 130
    except BrokenPipeError:
        # The reader of our stdout left (`| head`); nobody reads the error.
        sys.stderr.close()
        return 0
    except (ArcShardError, OSError, RuntimeError) as err:
        text = str(err) if isinstance(err, ArcShardError) else _told_by_system(err)
        if text is None:
            raise
        if args.debug:
            traceback.print_exc()
        line = f"{parser.prog}: error: {text}"
        stderr.write(f"{line}\n")
        report(line, err)
        _drop_stdout()
        return 1
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


def _open_streams() -> None:
    """Let what a closed stdout or stderr would get go nowhere: the next file that is opened would be in its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for the life of the process


def _flush_stdout() -> None:
    """Write what is left now: what a full device does not take is an error of the command, not of the interpreter."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as err:
        raise OSError(err.errno, err.strerror, "stdout") from err


def _told_by_system(err: OSError | RuntimeError) -> str | None:
    """Return in one line what the system around us refused; None for an error that is a mistake of ours."""
    if isinstance(err, RuntimeError):
        if "can't start new thread" not in str(err):
            return None
        return "threads: no more can be started; expected a few; raise the limit (ulimit -u) or use fewer workers"
    if err.errno is None:
        return None
    place = err.filename if err.filename is not None else "the system"
    advice = _ADVICE.get(err.errno, "look at the disk, the limits (ulimit -a) and the permissions")
    text = f"{place}: {err.strerror or os.strerror(err.errno)}; expected it to be possible; {advice}, or see --debug"
    return str(ArcShardError(text))


_ADVICE = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.ENOSPC: "free space on the device that it, or the output, is written to",
    errno.EDQUOT: "free space within your quota",
    errno.EAGAIN: "raise the limit of processes and threads (ulimit -u)",
    errno.ENOMEM: "free memory",
}


def _drop_stdout() -> None:
    """Let what a full device did not take go: the interpreter would try again at its end, and print a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    """Parse a flag's value as a whole number of at least one, which may be written as 100e6."""
    return _whole(text, 1, "a positive integer")


def non_negative_int(text: str) -> int:
    """Parse a flag's value as a whole number of at least zero."""
    return _whole(text, 0, "an integer of at least 0")


def positive_float(text: str) -> float:
    """Parse a flag's value as a number above zero."""
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def non_negative_float(text: str) -> float:
    """Parse a flag's value as a number of at least zero."""
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return value


def _whole(text: str, least: int, expected: str) -> int:
    value = int(text) if text.strip().isdecimal() else _finite(text)  # float would round a large integer
    if value < least or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return int(value)


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from err
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value
