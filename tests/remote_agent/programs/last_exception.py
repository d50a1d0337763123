import atexit
import sys
atexit.register(lambda: print(sys.last_type, sys.last_value, sys.last_traceback.tb_next))
raise OSError(2, "kept")
