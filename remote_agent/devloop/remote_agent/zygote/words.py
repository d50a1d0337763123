"""The words of the messages and the levels of containment, shared by both sides."""

from __future__ import annotations

PID_NAMESPACE = "pid namespace"
PROCESS_GROUP = "process group"

# Agent to spawner or zygote. `configure` is the first message and comes once.
#   configure  {highest_level} to the spawner, which finds out what works;
#              {level, user_namespace, preload: [str], workspace} to a zygote
#   pair       {}                       fork one more pair ahead
CONFIGURE = "configure"
PAIR = "pair"
#   launch     {number, argv, env, cwd, identity} + fds [control socket, log]; to the spawner in a
#              container, which starts a zygote's interpreter there
LAUNCH = "launch"

# Spawner or zygote to agent.
#   loaded     {level, user_namespace, hint} from the spawner;
#              {watched: {path: stat}, said: str, rss_bytes} from a zygote
#   refused    {package, reason}        this package spoils the fork; the zygote ends
#   unsafe     {reason}                 no fork of this preload works; the zygote ends
#   born       {} + fds [to child, to init, pidfd of init]
#   stale      {path}                   an imported file changed on disk
LOADED = "loaded"
REFUSED = "refused"
UNSAFE = "unsafe"
BORN = "born"
STALE = "stale"
#   launched   {number, error} + fds [pidfd], none with an error
LAUNCHED = "launched"

# Agent to child, once, with fds [stdin, stdout, stderr].
#   {mode: "exec" | "script" | "module" | "code", argv, env, cwd, tty, target, args,
#    executable, workspace, path_map: [[from, to]], drop_capabilities,
#    identity: {uid, gid, groups} to become, in a container}
# Child to agent, then the socket closes; a close without a message is a successful exec.
#   running    {}                       a Python program is about to start in this process
#   cold       {note}                   it does not start in this process: exec follows
#   failed     {errno, where}           neither
RUNNING = "running"
COLD = "cold"
FAILED = "failed"

# Agent to init.
#   signal     {signum}                 to the foreground process group
#   kill       {}                       end everything of the run
# Init to agent.
#   ready      {namespace: int} + fds [pidfd of the child]
#   exit       {status, user_s, system_s, peak_kib, modules: [str]}; nothing is left but init
SIGNAL = "signal"
KILL = "kill"
READY = "ready"
EXIT = "exit"
