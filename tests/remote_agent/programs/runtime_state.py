import locale
import logging
import os
import sys
import time
print(sys.flags, sys.warnoptions, sys.dont_write_bytecode, sys.gettrace(), sys.getprofile())
print(locale.setlocale(locale.LC_ALL), sys.getfilesystemencoding(), time.tzname, os.umask(0))
print(sys.getswitchinterval(), sys.getdlopenflags(), sys.is_finalizing(), sys.ps1 if hasattr(sys, "ps1") else None)
print(time.time() - logging._startTime < 5, time.process_time() < 5)
print(os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid(), os.getppid() > 0)
print(hasattr(sys, "last_value"), sys.exc_info(), sys.meta_path, len(sys.path_hooks), sys.stdlib_module_names is not None)
