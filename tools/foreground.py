"""Starts a command so that Ctrl-C reaches it and not the `make` that waits for it.

make fails after Ctrl-C even if the program handled it well. Here the program gets a process group of its own
and with it the terminal, as from a shell's job control. It is exec'd: one process, signals included.
"""

import os
import signal
import sys


def main() -> None:
    command = sys.argv[1:]
    if os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp():
        os.setpgid(0, 0)
        # A process that takes the terminal from outside its foreground group is stopped, unless it ignores
        # that.
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpgrp())
        signal.signal(signal.SIGTTOU, before)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
