"""Containers for an ordinary user: namespaces, mounts, root emulation.

This package stands alone. It imports nothing but os, sys, ctypes, struct, fcntl and errno, because
it runs between fork and exec, before every RUN and every ``ch-run``, where an import costs more
than the system calls do.
"""
