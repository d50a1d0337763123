import atexit
import sys
atexit.register(print, "first registered")
atexit.register(print, "second registered")
atexit.register(lambda: print("file" in globals(), sys.argv[0]))
print("body")
