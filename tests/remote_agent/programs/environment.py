import os
for name, value in os.environ.items():
    print(name, value)
print(os.environb[b"BYTES"], os.getenv("HOME"))
os.system("echo $BYTES | od -c | head -3")
