import io
import sys
sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="latin-1", line_buffering=True)
print("caf\xe9")
sys.stderr.reconfigure(errors="strict")
print(sys.stderr.errors)
