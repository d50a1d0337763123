"""Containers: what runs see of an image, and how they are kept away from the box.

spec      what a container is to be, and what an image's config says
bundle    a spec as an OCI runtime's config (pure)
seccomp   which system calls a run may make, for the runtime and for the spawner inside
devices   what a box's GPUs need inside
caches    downloads and compiled kernels that outlive containers
runtime   which of crun and runc, and what this box allows
rootless  who exists in the containers of an agent that is not root
pause     the first process of every container, a program of ours
identity  who runs are in there, and how the workspace is shown to them
keeper    the process that owns one container: mounts, runtime, file server, end
inside    the keeper's fork that goes in, to start runs there
look      what it is asked about files that only exist in there
container the agent's handle of one keeper
layers    writable layers that are kept
pool      which containers are kept warm, and what a killed agent left
place     what `spawn` starts runs in
"""
