"""The command line: ``indygru-cpu demo``, ``indygru-cpu bench`` and ``indygru-cpu info``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from indygru_cpu import __version__
from indygru_cpu._cli import bench as bench_run
from indygru_cpu._cli import demo as demo_run
from indygru_cpu._cli import info as build_info
from indygru_cpu._engine.messages import shown


def _integer_parser(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {minimum}, got {shown(text)}")
        return value

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="indygru-cpu", description="The IndyGRU layer on CPUs.")
    parser.add_argument("--version", action="version", version=f"indygru_cpu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    text = "train a speaker classifier on real speech, in seconds"
    demo = commands.add_parser("demo", help=text, description=text.capitalize() + ".")
    defaults = demo_run.Settings()
    for option, minimum, meaning in (
        ("hidden-size", 1, "units of each IndyGRU"),
        ("networks", 1, "networks of the ensemble"),
        ("epochs", 1, "training epochs"),
        ("seed", 0, "seed of initial weights, batches and noise"),
        ("threads", 1, "threads of each layer"),
    ):
        default = getattr(defaults, option.replace("-", "_"))
        text = f"{meaning} (default {default})"
        demo.add_argument(f"--{option}", type=_integer_parser(minimum), default=default, metavar="INT", help=text)
    demo.add_argument("--plot", type=Path, metavar="FILE.png", help="plot losses, accuracy, gates and states")
    demo.add_argument("--save", type=Path, metavar="FILE.npz", help="write the trained weights")

    text = "time the layer on this machine beside numpy.matmul, in about a minute"
    bench = commands.add_parser("bench", help=text, description=text.capitalize() + ".")
    text = "time for all measurements together, at least 3 rounds each (default 60)"
    bench.add_argument("--seconds", type=_integer_parser(1), default=60, metavar="INT", help=text)

    text = "show the build and the settings in use"
    info = commands.add_parser("info", help=text, description=text.capitalize() + ".")
    info.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _encodable(text: str) -> str:
    """The text with "us" instead of microseconds with a Greek letter, if standard output cannot encode that."""
    try:
        text.encode(sys.stdout.encoding or "utf8")
    except UnicodeEncodeError:
        return text.replace("\N{MICRO SIGN}", "u").encode("ascii", "replace").decode()
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. A wrong argument raises SystemExit(2)."""
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    try:
        if command == "info":
            values = build_info.info()
            print(json.dumps(values, indent=2) if options["json"] else build_info.as_text(values), flush=True)
        elif command == "bench":
            for line in bench_run.lines(options["seconds"]):
                print(_encodable(line), flush=True)
        else:
            demo_run.run(demo_run.Settings(**options))
    except demo_run.DemoError as error:
        print(f"indygru-cpu demo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes standard output when it ends
        return 1
    except KeyboardInterrupt:
        print(f"\nindygru-cpu {command}: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
