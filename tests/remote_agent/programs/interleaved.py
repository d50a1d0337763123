import sys
for number in range(5):
    print(number)
    print(number, file=sys.stderr)
