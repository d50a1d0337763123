import sys
sys.exit("it went wrong")
