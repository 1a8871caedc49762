"""Runs a command in a terminal and types answers. usage: terminal.py COMMAND [WAIT-FOR ANSWER]...

Types each ANSWER once the terminal shows its WAIT-FOR. Prints the terminal's output and exits with the command's code.
"""

import os
import pty
import select
import sys
import time

command, pairs = sys.argv[1], sys.argv[2:]
answers = list(zip(pairs[::2], pairs[1::2]))
pid, master = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", command])
output = b""
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    if not select.select([master], [], [], 1)[0]:
        continue
    try:
        chunk = os.read(master, 4096)
    except OSError:
        # Linux reports EIO when the last process with the terminal has ended.
        break
    if not chunk:
        break
    output += chunk
    if answers and answers[0][0].encode() in output:
        os.write(master, answers.pop(0)[1].encode() + b"\n")
sys.stdout.buffer.write(output)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
