"""A terminal with a command in it, and somebody who types: usage: terminal.py COMMAND [WAIT-FOR ANSWER]...

Prints what stood on the terminal. Ends with the command's exit code.
"""

import os
import pty
import select
import sys
import time

command, rest = sys.argv[1], sys.argv[2:]
answers = list(zip(rest[::2], rest[1::2]))
pid, master = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", command])
seen = b""
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    if not select.select([master], [], [], 1)[0]:
        continue
    try:
        some = os.read(master, 4096)
    except OSError:
        break
    if not some:
        break
    seen += some
    if answers and answers[0][0].encode() in seen:
        os.write(master, answers.pop(0)[1].encode() + b"\n")
sys.stdout.buffer.write(seen)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
