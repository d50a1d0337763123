import sys
for number in range(50_000):
    print(number)
print("end", file=sys.stderr)
