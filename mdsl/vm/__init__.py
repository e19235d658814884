"""The virtual machine: the threaded interpreter, the JIT, the memory of a call and the worker threads."""
