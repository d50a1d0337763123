import faulthandler
import os
import sys
faulthandler.enable(file=sys.stdout)


def fall():
    os.abort()


fall()
