import atexit
import os
atexit.register(print, "never")
print("lost", end="")
os._exit(5)
