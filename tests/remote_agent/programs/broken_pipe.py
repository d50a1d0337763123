import os
import sys
read_end, write_end = os.pipe()
os.close(read_end)
os.dup2(write_end, 1)
sys.stdout.write("x" * 10)
