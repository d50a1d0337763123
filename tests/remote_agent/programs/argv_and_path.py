import os
import sys
print(sys.argv, sys.orig_argv[1:], sys.path[0], __file__)
print(os.getcwd(), sys.executable, sys.prefix, sys.flags)
print(sys.path)
