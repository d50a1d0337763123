import subprocess
import sys
print(subprocess.run([sys.executable, "-c", "import sys; print(sys.argv, sys.flags)", "a"],
                     capture_output=True, text=True, check=True).stdout)
print(subprocess.run("cat", input=b"in", stdout=subprocess.PIPE).stdout)
print(subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode)
