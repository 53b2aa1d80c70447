"""Becomes another program, which ends when the process that started it is gone: `leash.py PARENT PROGRAM ARGUMENT…`.

Only Linux can do that. Elsewhere a program whose parent was killed lives on until the next replay ends it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went before it could be told of
            sys.exit(1)
    os.execv(program[0], program)
