"""``python -m agentcg``: the program ``agentcg``, and its ``report --html``."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Do what the command line says; returns the exit status."""
    args = sys.argv[1:]
    if args[:1] == ["report"] and any(a == "--html" or a.startswith("--html=") for a in args):
        from agentcg.report import main as report

        return report(args[1:])
    from agentcg import _native

    # The program has handlers of its own, and no Python code is there to get a KeyboardInterrupt.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _native.main(args)


if __name__ == "__main__":
    sys.exit(main())
